"""The beginning of another set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from latentkit.errors import UsageError
from latentkit.evaluation.picture_set import PictureBatch, PictureSet


class FirstOf(PictureSet):
    """The first ``n`` pictures of a set by key, or all when it has fewer.

    Args:
        whole: the set.
        n: how many, at least 2.

    Attributes:
        cut: whether the set has more.

    Raises:
        UsageError: ``n`` is less than 2.
    """

    def __init__(self, whole: PictureSet, n: int) -> None:
        if n < 2:
            raise UsageError(f"limit={n}: an evaluation needs at least 2 pictures; null takes all")
        self._whole = whole
        self.name, self.latents, self.paired = whole.name, whole.latents, whole.paired
        self.keys = whole.keys[:n]
        self.cut = len(self.keys) < len(whole)

    def batches(self, positions: np.ndarray, batch_size: int, workers: int) -> Iterator[PictureBatch]:
        return self._whole.batches(positions, batch_size, workers)

    def unpaired(self) -> PictureSet:
        return FirstOf(self._whole.unpaired(), len(self)) if self.paired else self

    def identity(self) -> dict[str, Any]:
        return self._whole.identity() | {"first": len(self)}
