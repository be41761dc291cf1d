"""Which reconstructions to show: the worst, the median and the best, found in passing."""

from collections.abc import Iterable
from typing import Self

import numpy as np

SAMPLED = 4096
"""Pictures among which the median ones are looked for: evenly spaced, so that memory stays bounded."""


class GallerySearch:
    """Keeps the `wanted` worst and best of what it is told of, and every so many-th picture for the median.

    Args:
        total: pictures of the set.
        wanted: pictures a row.
    """

    def __init__(self, total: int, wanted: int) -> None:
        self._wanted = wanted
        self._step = -(-total // SAMPLED)
        self._worst: list[tuple[float, int]] = []
        self._best: list[tuple[float, int]] = []
        self._sampled: list[tuple[float, int]] = []

    def add(self, positions: np.ndarray, psnr: np.ndarray) -> None:
        """Hear of some pictures: positions int64 [B], dB float [B]."""
        new = list(zip(psnr.tolist(), positions.tolist(), strict=True))
        self._worst = sorted(self._worst + new)[: self._wanted]
        self._best = sorted(self._best + new)[-self._wanted :]
        self._sampled += [pair for pair in new if pair[1] % self._step == 0]

    def merge(self, others: Iterable[Self]) -> dict[str, dict[int, float]]:
        """``worst``, ``median`` and ``best`` -> position -> dB, the lowest first; ties go by position.

        Of this one and those of other processes. Fewer than were wanted in a small set, nothing in an empty
        one.
        """
        together = [self, *others]
        worst = sorted(pair for search in together for pair in search._worst)[: self._wanted]
        best = sorted(pair for search in together for pair in search._best)[-self._wanted :]
        sampled = sorted(pair for search in together for pair in search._sampled)
        first = max(0, (len(sampled) - self._wanted) // 2)
        rows = {"worst": worst, "median": sampled[first : first + self._wanted], "best": best}
        return {name: {position: psnr for psnr, position in row} for name, row in rows.items() if row}
