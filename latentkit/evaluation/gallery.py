"""Which reconstructions to show: the worst, the median and the best, found in passing."""

from __future__ import annotations

from collections.abc import Iterable

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
        self._worst = self._best = self._sampled = _table([], [])

    def add(self, positions: np.ndarray, psnr: np.ndarray) -> None:
        """Hear of some pictures: positions int64 [B], dB float [B]."""
        new = _table(positions, psnr)
        self._worst = _sorted(self._worst, new)[: self._wanted]
        self._best = _sorted(self._best, new)[-self._wanted :]
        self._sampled = np.concatenate([self._sampled, new[new["position"] % self._step == 0]])

    def merge(self, others: Iterable[GallerySearch]) -> dict[str, dict[int, float]]:
        """``worst``, ``median`` and ``best`` -> position -> dB, the lowest first; ties go by position.

        Of this one and those of other processes. Fewer than were wanted in a small set, nothing in an empty
        one.
        """
        together = [self, *others]
        worst = _sorted(*(search._worst for search in together))[: self._wanted]
        best = _sorted(*(search._best for search in together))[-self._wanted :]
        sampled = _sorted(*(search._sampled for search in together))
        first = max(0, (len(sampled) - self._wanted) // 2)
        rows = {"worst": worst, "median": sampled[first : first + self._wanted], "best": best}
        return {
            name: {int(position): float(value) for value, position in row}
            for name, row in rows.items()
            if len(row)
        }


def _table(positions: object, psnr: object) -> np.ndarray:
    positions = np.asarray(positions, np.int64)
    table = np.empty(len(positions), [("psnr", np.float64), ("position", np.int64)])
    table["psnr"], table["position"] = psnr, positions
    return table


def _sorted(*tables: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate(tables), order=["psnr", "position"])
