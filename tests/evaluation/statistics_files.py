"""Statistics for files of them, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def moments(seed: int, suffix: str = "", width: int = 6) -> dict[str, np.ndarray]:
    """``mu`` and ``sigma`` of some random features."""
    features = np.random.default_rng(seed).standard_normal((50, width))
    return {f"mu{suffix}": features.mean(axis=0), f"sigma{suffix}": np.cov(features, rowvar=False)}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
