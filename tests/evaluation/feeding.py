"""Metrics as conf/ declares them, and given their features in batches, as a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from latentkit.evaluation.metrics import EvaluationMetric
from latentkit.evaluation.metrics.metric import Side
from latentkit.jobs.config import build, conf_dir


def frechet(name: str) -> EvaluationMetric:
    """``fid``, ``sfid`` or ``fd_dinov3``, as its YAML says."""
    file = Path(conf_dir(), "metric", f"{name}.yaml")
    metric: Any = build(OmegaConf.to_container(OmegaConf.load(file)), f"metrics.{name}")
    assert metric.name == name
    return metric


def feed(
    metric: EvaluationMetric,
    side: Side,
    features: np.ndarray,
    positions: np.ndarray | None = None,
    batch: int = 300,
) -> None:
    """The rows at these positions, in this order; all of them when no positions are given."""
    positions = np.arange(len(features)) if positions is None else positions
    for begin in range(0, len(positions), batch):
        places = torch.from_numpy(positions[begin : begin + batch])
        metric.update({metric.features[0]: torch.from_numpy(features)[places]}, places, side)


def computed(
    metric: EvaluationMetric, generated: np.ndarray, reference: np.ndarray | None = None
) -> dict[str, float]:
    """The metric of whole sets, in order."""
    feed(metric, "generated", generated)
    if reference is not None:
        feed(metric, "reference", reference)
    return metric.compute()
