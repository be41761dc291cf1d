"""Which reconstructions to show: the worst, the median and the best, found in passing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SAMPLED = 4096
"""Pictures among which the median ones are looked for: evenly spaced, so that memory stays bounded."""


@dataclass(frozen=True)
class Gallery:
    """The pictures of three rows, each from the lowest PSNR to the highest.

    Attributes:
        worst, median, best: int64 [k] positions, fewer than were asked for in a small set.
        psnr: position -> dB.
    """

    worst: np.ndarray
    median: np.ndarray
    best: np.ndarray
    psnr: dict[int, float]


class GallerySearch:
    """Keeps the `wanted` worst and best of what it is told of, and every so many-th picture for the median.

    Args:
        total: pictures of the set.
        wanted: pictures a row.
    """

    def __init__(self, total: int, wanted: int) -> None:
        self._wanted = wanted
        self._step = -(-total // SAMPLED)
        self._worst = self._best = self._sampled = _table([], [])

    def add(self, positions: np.ndarray, psnr: np.ndarray) -> None:
        """Hear of some pictures: positions int64 [B], dB float [B]."""
        new = _table(positions, psnr)
        self._worst = _sorted(self._worst, new)[: self._wanted]
        self._best = _sorted(self._best, new)[-self._wanted :]
        self._sampled = np.concatenate([self._sampled, new[new["position"] % self._step == 0]])

    def merge(self, others: Iterable[GallerySearch]) -> Gallery:
        """What this one and those of other processes have found. Ties go by position."""
        together = [self, *others]
        worst = _sorted(*(search._worst for search in together))[: self._wanted]
        best = _sorted(*(search._best for search in together))[-self._wanted :]
        sampled = _sorted(*(search._sampled for search in together))
        first = max(0, (len(sampled) - self._wanted) // 2)
        rows = [worst, sampled[first : first + self._wanted], best]
        psnr = {int(position): float(value) for row in rows for value, position in row}
        return Gallery(*(row["position"].copy() for row in rows), psnr=psnr)


def _table(positions: object, psnr: object) -> np.ndarray:
    positions = np.asarray(positions, np.int64)
    table = np.empty(len(positions), [("psnr", np.float64), ("position", np.int64)])
    table["psnr"], table["position"] = psnr, positions
    return table


def _sorted(*tables: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate(tables), order=["psnr", "position"])
