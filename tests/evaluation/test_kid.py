"""KID against torch-fidelity, and against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from feeding import computed, feed
from recipes import features

from latentkit.errors import LatentkitError
from latentkit.evaluation.metrics import KID


def test_it_agrees_with_torch_fidelity_subset_for_subset(
    two_sets: tuple[np.ndarray, np.ndarray], golden_metrics: dict[str, Any]
) -> None:
    found = computed(KID(), *two_sets)
    published = golden_metrics["torch_fidelity/kid"]
    assert found["kid"] == pytest.approx(published["kernel_inception_distance_mean"], abs=1e-7)
    assert found["kid_std"] == pytest.approx(published["kernel_inception_distance_std"], abs=1e-7)


def test_it_is_the_unbiased_estimate() -> None:
    x, y = features(1, 30, 8, 0), features(2, 30, 8, 0.3)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(np.float64) @ b / 8 + 1) ** 3)

    pairs = [(i, j) for i in range(30) for j in range(30)]
    own = sum(kernel(side[i], side[j]) for side in (x, y) for i, j in pairs if i != j) / (30 * 29)
    exact = own - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 30**2
    found = computed(KID(subsets=2, subset_size=30), x, y)  # a subset is the whole set, in some order
    assert found["kid"] == pytest.approx(exact, rel=1e-12)
    assert found["kid_std"] < 1e-12


def test_order_of_batches_and_a_kept_reference_change_nothing() -> None:
    x, y = features(1, 50, 8, 0), features(2, 40, 8, 0.3)
    first, second = (KID(subsets=5, subset_size=20) for _ in range(2))
    expected = computed(first, x, y)
    np.testing.assert_array_equal(first.reference_statistics()["pool3"], y)
    assert second.load_reference(first.reference_statistics())
    feed(second, "generated", x, np.random.default_rng(0).permutation(50), batch=7)
    assert second.compute() == expected
    assert KID().load_reference({"mu": np.zeros(8), "sigma": np.eye(8)}) is False


def test_a_side_smaller_than_a_subset_is_an_error() -> None:
    with pytest.raises(LatentkitError, match="kid needs at least 1000 reference pictures, there are 40"):
        computed(KID(), features(1, 1000, 8, 0), features(2, 40, 8, 0))
