"""What every metric is: a torchmetrics `Metric` over features by name, whose states sum across processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torchmetrics import Metric

Side = Literal["generated", "reference"]

PIXELS, ORIGINALS = "pixels", "originals"
"""Besides the extractors' taps: uint8 [B, H, W, 3], the pictures and what they are reconstructions of."""


class EvaluationMetric(Metric):
    """A number, or a few, about a set of generated pictures, alone or beside a reference.

    Nothing depends on the order of batches, or on how pictures are divided among processes: what is kept a
    picture is put into order by position before it is used. States are of one process until they are synced:
    with several, call `compute` and `reference_statistics` inside ``with metric.sync_context():``, which
    every process enters.

    Class attributes:
        taps: names of the features that `update` reads: an extractor's taps, `PIXELS` or `ORIGINALS`.
        compares: whether it needs a reference. One that reads `ORIGINALS` does not: its pictures come in
            pairs.

    Attributes:
        latest_psnr: [B] in dB, what the last `update` found of each picture; None for a metric that does not
            compare pictures with their originals.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    taps: ClassVar[tuple[str, ...]]
    compares: ClassVar[bool]

    latest_psnr: torch.Tensor | None = None

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)

    @abstractmethod
    def update(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor, side: Side) -> None:
        """Take in a batch.

        Args:
            features: tap -> [B, ...] on this metric's device, at least `taps`.
            positions: int64 [B] on this metric's device, the pictures' places in their set.
            side: which of the two sets they belong to.

        Raises:
            LatentkitError: features are not finite.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Name -> value, at least one. Raises LatentkitError when a side has too few pictures."""

    def reference_statistics(self) -> dict[str, np.ndarray]:
        """What is known of the reference, so that it need not be looked at again; of all processes.

        Empty for a metric that does not compare.
        """
        return {}

    def load_reference(self, statistics: Mapping[str, np.ndarray]) -> bool:
        """Take a reference from its statistics; False when they lack what this metric needs.

        On one process of several: elsewhere the states stay empty, and sum to the same.
        """
        return not self.compares
