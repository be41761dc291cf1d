"""The Inception Score against torch-fidelity, ADM, and its definition."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.special
from feeding import computed, feed

from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.metrics import InceptionScore


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """Those of the golden values: float32 [5000, 1008]."""
    return np.random.default_rng(3).standard_normal((5000, 1008)).astype(np.float32) * 3


@pytest.mark.parametrize(("golden", "seed"), [("isc", 2020), ("isc_noshuffle", None)])
def test_it_agrees_with_torch_fidelity(
    logits: np.ndarray, golden_metrics: dict[str, Any], golden: str, seed: int | None
) -> None:
    found = computed(InceptionScore(shuffle_seed=seed), logits)
    published = golden_metrics[f"torch_fidelity/{golden}"]
    assert found["inception_score"] == pytest.approx(published["inception_score_mean"], rel=1e-9)
    assert found["inception_score_std"] == pytest.approx(published["inception_score_std"], rel=1e-9)


def test_it_agrees_with_adm(logits: np.ndarray, golden_metrics: dict[str, Any]) -> None:
    found = computed(InceptionScore(splits=None, split_size=5000, shuffle_seed=None), logits)
    assert found["inception_score"] == pytest.approx(golden_metrics["adm/is_one_chunk_of_5000"], rel=1e-9)


@pytest.mark.parametrize("options", [{"splits": 3}, {"splits": None, "split_size": 40}])
def test_parts_of_unequal_size(logits: np.ndarray, options: dict[str, Any]) -> None:
    few = logits[:100, :50]
    bounds = [0, 33, 66, 100] if options["splits"] else [0, 40, 80, 100]
    scores = []
    for begin, end in pairwise(bounds):
        p = scipy.special.softmax(few[begin:end].astype(np.float64), axis=1)
        scores.append(np.exp(scipy.special.rel_entr(p, p.mean(axis=0)).sum(axis=1).mean()))
    found = computed(InceptionScore(**options, shuffle_seed=None), few)
    assert found == pytest.approx(
        {"inception_score": np.mean(scores), "inception_score_std": np.std(scores)}, rel=1e-12
    )


def test_the_order_of_batches_changes_nothing(logits: np.ndarray) -> None:
    few = logits[:200, :50]
    metric = InceptionScore()
    feed(metric, "generated", few, np.random.default_rng(1).permutation(200), batch=30)
    assert metric.compute() == computed(InceptionScore(), few)


def test_classes_that_are_certain_leave_no_nan() -> None:
    certain = np.eye(20, dtype=np.float32) * 1e4
    assert computed(InceptionScore(splits=1), certain)["inception_score"] == pytest.approx(20)


@pytest.mark.parametrize("positions", [[0, 1, 2, 2], [0, 1, 3]])
def test_a_picture_that_came_twice_or_never_is_an_error(positions: list[int]) -> None:
    metric = InceptionScore(splits=1)
    feed(metric, "generated", np.eye(4, dtype=np.float32), np.array(positions))
    with pytest.raises(LatentkitError, match="generated pictures were counted twice, or left out"):
        metric.compute()


def test_too_few_pictures_and_contradictory_parts() -> None:
    with pytest.raises(LatentkitError, match="inception_score needs at least 10 generated pictures"):
        computed(InceptionScore(), np.eye(9, dtype=np.float32))
    with pytest.raises(UsageError, match="either splits or split_size"):
        InceptionScore(splits=10, split_size=5000)
    with pytest.raises(UsageError, match="at least 1"):
        InceptionScore(splits=0)
