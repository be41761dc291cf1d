"""The beginning of another set."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latentkit.errors import UsageError
from latentkit.evaluation.picture_set import PictureSet


class FirstOf(PictureSet):
    """The first ``n`` pictures of a set by key, or all when it has fewer.

    Args:
        whole: the set.
        n: how many, at least 2.

    Raises:
        UsageError: ``n`` is less than 2.
    """

    def __init__(self, whole: PictureSet, n: int) -> None:
        if n < 2:
            raise UsageError(f"limit={n}: an evaluation needs at least 2 pictures; null takes all")
        self._whole = whole
        self.name, self.latents, self.originals = whole.name, whole.latents, whole.originals
        self.contract = whole.contract
        self.keys = whole.keys[:n]
        self.cut = len(self.keys) < len(whole)

    @property
    def warnings(self) -> Sequence[str]:
        return self._whole.warnings

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        return self._whole.rows(positions, workers)

    def identity(self) -> dict[str, Any]:
        return self._whole.identity() | {"first": len(self)}
