"""Statistics for files of them, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.evaluation.references import Reference, open_reference
from latentkit.evaluation.sets.open import open_set
from latentkit.evaluation.statistics import is_statistics
from latentkit.pixels import Geometry

NETWORKS = {"inception": {"weights": "6726825d", "precision": "32-true"}}


def moments(seed: int, suffix: str = "", width: int = 6) -> dict[str, np.ndarray]:
    """``mu`` and ``sigma`` of some random features."""
    features = np.random.default_rng(seed).standard_normal((50, width))
    return {f"mu{suffix}": features.mean(axis=0), f"sigma{suffix}": np.cov(features, rowvar=False)}


NEEDED = {
    name: {"inception"}
    for name in (
        "pool3",
        *(
            f"{of}{suffix}"
            for of in ("mu", "sigma")
            for suffix in ("", "_s", "_t", *(f"_{n}" for n in range(6)))
        ),
    )
}
"""Statistics that metrics need -> the extractor that they are of."""


def opened(path: Path, folder: Path, **options: Any) -> Reference:
    """A reference: statistics, or pictures in their geometry."""
    settings: dict[str, Any] = {"geometry": None, "extractors": NETWORKS, "needed": NEEDED} | options
    geometry = settings["geometry"] if isinstance(settings["geometry"], Geometry) else None
    reference = path if is_statistics(path) else open_set(str(path), None, geometry)
    return open_reference(reference, folder=folder, **settings)


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def saved(reference: Reference, path: Path, statistics: Mapping[str, np.ndarray]) -> None:
    """Save a reference of which a run has found out these statistics."""
    reference.found.update(statistics)
    reference.save(path)
