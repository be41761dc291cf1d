"""What every metric is: a torchmetrics `Metric` over features by name; its states sum across processes."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from latentkit.errors import LatentkitError

Side = Literal["generated", "reference"]

PIXELS, ORIGINALS = "pixels", "originals"
"""Features beside the encoders' outputs: uint8 [B, H, W, 3], the pictures, and what they reconstruct."""


class EvaluationMetric(Metric):
    """A number, or a few, about a set of generated pictures, alone or beside a reference.

    Nothing depends on the order of batches, or on how pictures are divided among processes: what is kept a
    picture is put into order by position before it is used. States are of one process until they are synced:
    with several, call `compute` and `reference_statistics` inside ``with metric.sync_context():``, which
    every process enters.

    Attributes:
        name: for messages.
        features: what `update` reads: encoders' outputs, as ``inception.pool3``, `PIXELS` or `ORIGINALS`.
        compares: whether it needs a reference. One that reads `ORIGINALS` does not: its pictures come in
            pairs.
        statistics: what it needs of a reference where its pictures are not looked at, by the names that files
            of statistics have; empty for a metric that always looks at them.
        loaded: the reference's statistics, where it is known by them; no state, so never summed.
        min_samples_option: the option that decides `min_samples`; None where there is none.
        latest_psnr: [B] in dB, what the last `update` found of each picture; None for a metric that does not
            compare pictures with their originals.
    """

    name: str
    features: Sequence[str]
    compares: ClassVar[bool]
    statistics: Sequence[str] = ()
    loaded: Mapping[str, np.ndarray] | None = None
    min_samples_option: ClassVar[str | None] = None
    latest_psnr: torch.Tensor | None = None
    _width: int = 0

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)

    @abstractmethod
    def update(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor, side: Side) -> None:
        """Take in a batch.

        Args:
            features: name -> [B, ...] on this metric's device, at least `features`.
            positions: int64 [B] on this metric's device, the pictures' places in their set.
            side: which of the two sets they belong to.

        Raises:
            LatentkitError: features are not finite.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Name -> value, at least one. Raises LatentkitError when a side has too few pictures."""

    def min_samples(self) -> int:
        """Pictures that a set must have at least, on either side."""
        return 2 if self.compares else 1

    def nonstandard_reason(self) -> str | None:
        """Why this metric's values stand beside no published ones, in a few words: settings that those do
        not have, as ``neighbours=5``; None when they do.
        """
        return "no published numbers are known"

    def require(self, pictures: int, side: Side) -> None:
        """Raise LatentkitError when a set has too few pictures. `compute` asks too; a run can ask first."""
        if pictures < self.min_samples():
            raise LatentkitError(
                f"{self.name} needs at least {self.min_samples()} {side} pictures, there are {pictures}"
            )

    def reference_statistics(self) -> dict[str, np.ndarray]:
        """What is known of the reference, so that it need not be looked at again; of all processes.

        Empty for a metric that does not compare.
        """
        return {}

    def load_reference(self, statistics: Mapping[str, np.ndarray]) -> bool:
        """Take a reference from its statistics, in every process; False when they lack what is needed."""
        served = bool(self.statistics) and statistics.keys() >= {*self.statistics}
        if served:
            self.loaded = {name: statistics[name] for name in self.statistics}
        return served or not self.compares

    def _vectors(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        """The only feature that it reads, [B, d]. Raises LatentkitError where it is not finite."""
        (name,) = self.features
        vectors = features[name].flatten(1)
        finite = torch.isfinite(vectors).all(dim=1)
        if not bool(finite.all()):
            wrong = positions[~finite].tolist()
            raise LatentkitError(f"{name} is not finite for the pictures at positions {wrong}")
        self._width = vectors.shape[1]
        return vectors

    def _allocate(self, width: int) -> None:
        """Make room in the states for features [B, width], where they need that."""

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None
    ) -> None:
        """A process that has seen no picture hears from the others how wide its states are."""
        widths = dist_sync_fn(torch.tensor(self._width, device=self.device), group=process_group)
        if width := max(map(int, widths)):
            self._allocate(width)
        super()._sync_dist(dist_sync_fn, process_group)

    def _apply(self, fn: Callable[..., Any], exclude_state: Any = "") -> Self:
        """Follow the module to another device, but never to another dtype."""
        device = fn(torch.empty(0, device=self.device)).device
        super()._apply(lambda tensor: tensor.to(device), exclude_state)
        return self
