"""Metrics that need every picture's features at the end, and so keep them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from latentkit.errors import LatentkitError
from latentkit.evaluation.metrics.metric import EvaluationMetric, Side

POOLED, LOGITS = "inception.pool3", "inception.logits"
"""What published values are computed of."""


class FeatureBank(EvaluationMetric):
    """Keeps one output's features, float32 [N, d] a side, on the device: 400 MB for 50,000 of 2048.

    Batches are kept as they come, not copied: metrics that are handed the same tensor hold it once.

    Args:
        features: an encoder's output, as ``inception.pool3``.
        statistics: what the reference's features are called in files of statistics; None for a metric without
            a reference.
    """

    def __init__(self, features: str, statistics: str | None = None) -> None:
        super().__init__()
        self.features = (features,)
        self.statistics = () if statistics is None else (statistics,)
        for side in ("generated", "reference"):
            self.add_state(f"{side}_features", [], dist_reduce_fx="cat")
            self.add_state(f"{side}_positions", [], dist_reduce_fx="cat")

    def update(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor, side: Side) -> None:
        """Keep a batch of [B, d]; `EvaluationMetric.update`."""
        getattr(self, f"{side}_features").append(self._vectors(features, positions).float())
        getattr(self, f"{side}_positions").append(positions)

    def reference_statistics(self) -> dict[str, np.ndarray]:
        """The reference's features, float32 [N, d], in the order of their positions."""
        return {name: self.kept("reference").cpu().numpy() for name in self.statistics}

    def kept(self, side: Side) -> torch.Tensor:
        """A side's features, float32 [N, d], in the order of their positions, whatever order they came in.

        Raises:
            LatentkitError: there are too few; or a position came twice or never.
        """
        if side == "reference" and self.loaded is not None:
            known = torch.from_numpy(np.asarray(self.loaded[self.statistics[0]], np.float32))
            self.require(len(known), side)
            return known.to(self.device)
        parts, places = getattr(self, f"{side}_features"), getattr(self, f"{side}_positions")
        if isinstance(parts, torch.Tensor):  # synced
            parts, places = [parts], [places]
        self.require(sum(map(len, places)), side)
        positions = torch.cat(places)
        if not torch.equal(positions.sort().values, torch.arange(len(positions), device=positions.device)):
            raise LatentkitError(f"{self.name}: {side} pictures were counted twice, or left out")
        ordered = torch.empty(len(positions), parts[0].shape[1], device=positions.device)
        for features, own in zip(parts, places, strict=True):
            ordered[own] = features
        return ordered

    def _other_features(self, published: str) -> str | None:
        """Why values stand beside no published ones, if that is for the features' sake."""
        return None if self.features == (published,) else f"features={self.features[0]}"

    def _copy_state_dict(self) -> dict[str, Any]:
        """What is kept while the states of all processes stand in its place: the same tensors, not copies."""
        return {name: list(getattr(self, name)) for name in self._defaults}

    def _allocate(self, width: int) -> None:
        for side in ("generated", "reference"):
            if not getattr(self, f"{side}_features"):
                getattr(self, f"{side}_features").append(torch.empty(0, width, device=self.device))
                empty = torch.empty(0, dtype=torch.int64, device=self.device)
                getattr(self, f"{side}_positions").append(empty)
