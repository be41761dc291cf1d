"""What the published evaluators give on inputs that a recipe makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes import features


@pytest.fixture(scope="session")
def golden_metrics() -> dict[str, dict[str, float] | Any]:
    """torch-fidelity's and ADM's values for `two_sets` and `golden_logits`."""
    return json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())


@pytest.fixture(scope="session")
def two_sets() -> tuple[np.ndarray, np.ndarray]:
    """Features of a generated set, [3000, 256], and of a reference, [2500, 256]."""
    return features(1, 3000, 256, 0), features(2, 2500, 256, 0.1)
