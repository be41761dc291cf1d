"""Precision and recall against torch-fidelity, and against distances taken one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from feeding import computed, feed
from recipes import features
from scipy.spatial.distance import cdist

from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.metrics import PrecisionRecall, precision_recall


def test_it_agrees_with_torch_fidelity(
    two_sets: tuple[np.ndarray, np.ndarray], golden_metrics: dict[str, Any]
) -> None:
    found = computed(PrecisionRecall(), *two_sets)
    assert found == pytest.approx(golden_metrics["torch_fidelity/prc"], abs=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("block", [1 << 24, 130])
def test_it_is_its_definition_in_blocks_of_any_size(
    neighbours: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_recall, "BLOCK", block)
    generated, reference = features(1, 70, 8, 0), features(2, 60, 8, 1)

    def within(rows: np.ndarray, others: np.ndarray) -> float:
        radii = np.sort(cdist(others, others), axis=1)[:, neighbours]
        return float((cdist(rows, others) <= radii).any(axis=1).mean())

    found = computed(PrecisionRecall(neighbours), generated, reference)
    assert 0 < found["recall"] < 1
    assert found["precision"] == pytest.approx(within(generated, reference))
    assert found["recall"] == pytest.approx(within(reference, generated))


def evaluators(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances as guided-diffusion's evaluator has TensorFlow take them in float16."""
    a, b = first.astype(np.float16), second.astype(np.float16)
    squares = [np.square(side).sum(axis=1, dtype=np.float32).astype(np.float16) for side in (a, b)]
    products = (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16)
    squared = squares[0][:, None] - np.float16(2) * products + squares[1]
    assert squared.dtype == np.float16
    return np.maximum(squared, 0).astype(np.float32)


def test_as_guided_diffusions_evaluator_rounds() -> None:
    generated, reference = features(1, 400, 256, 0.5), features(2, 300, 256, 0.55)

    def within(rows: np.ndarray, others: np.ndarray) -> float:
        radii = np.partition(evaluators(others, others), 3, axis=1)[:, 3]
        return float((evaluators(rows, others) <= radii).any(axis=1).mean())

    found = computed(PrecisionRecall(distances="float16"), generated, reference)
    assert found["precision"] == pytest.approx(within(generated, reference))
    assert found["recall"] == pytest.approx(within(reference, generated))
    exact = computed(PrecisionRecall(), generated, reference)
    assert found["precision"] > exact["precision"]
    assert found["recall"] > exact["recall"]


def test_features_too_large_for_float16_are_compared_in_float32() -> None:
    generated, reference = features(1, 70, 8, 0) * 200, features(2, 60, 8, 1) * 200
    assert computed(PrecisionRecall(distances="float16"), generated, reference) == computed(
        PrecisionRecall(), generated, reference
    )


def test_the_rim_counts_and_the_picture_itself_does_not() -> None:
    line = np.array([[0.0], [1], [2], [4]], dtype=np.float32)  # radii to the nearest other: 1, 1, 1, 2
    generated = np.array([[6.0], [6.5], [-1], [-1.5]], dtype=np.float32)
    assert computed(PrecisionRecall(1), generated, line)["precision"] == 0.5


def test_sets_far_apart_have_an_f_score_too() -> None:
    generated, reference = features(1, 20, 8, 0), features(2, 20, 8, 0) + 100
    assert computed(PrecisionRecall(), generated, reference) == {"precision": 0, "recall": 0, "f_score": 0}


def test_the_order_of_batches_changes_nothing() -> None:
    x, y = features(1, 70, 8, 0), features(2, 60, 8, 0.4)
    metric = PrecisionRecall()
    feed(metric, "generated", x, np.random.default_rng(0).permutation(70), batch=7)
    feed(metric, "reference", y, np.random.default_rng(1).permutation(60), batch=9)
    assert metric.compute() == computed(PrecisionRecall(), x, y)


def test_too_few_for_so_many_neighbours() -> None:
    with pytest.raises(LatentkitError, match="precision_recall needs at least 4 reference pictures"):
        computed(PrecisionRecall(), features(1, 9, 8, 0), features(2, 3, 8, 0))


def test_distances_of_another_kind_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="distances=half: choose one of float32, float16"):
        PrecisionRecall(distances="half")
