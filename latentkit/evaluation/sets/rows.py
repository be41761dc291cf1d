"""Sets that give a picture at a time, and how these become batches of one shape."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.evaluation.picture_set import PictureBatch, PictureSet

OPEN_BATCHES = 8
"""Batches that fill up at one time. Where pictures come in more shapes, the oldest goes before it is full."""

MAX_LATENT = 1e3
"""No autoencoder's latents are larger; what is was not meant as latents."""

NAMED = 3
"""How many of the pictures that something is wrong with a message names."""


class RowSet(PictureSet):
    """A set that can give its pictures, or its latents, one after the other."""

    @abstractmethod
    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        """At each position, in their order: uint8 [H, W, 3], or floats [C, h, w].

        Args:
            positions: int64 [B], ascending.
            workers: processes that decode picture files.
        """

    def batches(self, positions: np.ndarray, batch_size: int, workers: int) -> Iterator[PictureBatch]:
        import torch

        rows = ((row,) for row in self.rows(positions, workers))
        for places, (stack,) in stacked(positions, rows, batch_size):
            if self.latents is None:
                yield PictureBatch(places, pixels=torch.from_numpy(stack))
            else:
                check_latents(self, places, stack)
                yield PictureBatch(places, latents=torch.from_numpy(stack))


def stacked(
    positions: np.ndarray, rows: Iterable[tuple[np.ndarray, ...]], batch_size: int
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    """Rows to batches: those of equal shapes and types together, each array copied once.

    Args:
        positions: int64 [N].
        rows: the arrays that belong to each; they may be views of memory that is used again.

    Yields:
        Positions int64 [B], and the arrays [B, ...] in native byte order; B is at most `batch_size`.
    """
    filling: dict[tuple[object, ...], _Batch] = {}
    for position, row in zip(positions.tolist(), rows, strict=True):
        kind = tuple((array.shape, array.dtype) for array in row)
        if kind not in filling:
            if len(filling) == OPEN_BATCHES:
                yield filling.pop(next(iter(filling))).whole()
            filling[kind] = _Batch(row, batch_size)
        batch = filling[kind]
        batch.append(position, row)
        if len(batch.positions) == batch_size:
            yield filling.pop(kind).whole()
    for batch in filling.values():
        yield batch.whole()


class _Batch:
    """A batch that fills up."""

    def __init__(self, like: tuple[np.ndarray, ...], size: int) -> None:
        self.positions: list[int] = []
        self._arrays = tuple(np.empty((size, *row.shape), row.dtype.newbyteorder("=")) for row in like)

    def append(self, position: int, row: tuple[np.ndarray, ...]) -> None:
        for stack, array in zip(self._arrays, row, strict=True):
            stack[len(self.positions)] = array
        self.positions.append(position)

    def whole(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        count = len(self.positions)
        return np.array(self.positions, np.int64), tuple(stack[:count] for stack in self._arrays)


def check_latents(latents: PictureSet, positions: np.ndarray, stack: np.ndarray) -> None:
    """Raise LatentkitError, with keys, where latents [B, C, h, w] are not finite, or larger than any are."""
    # The bits of magnitudes are ordered as these are, NaN last; float16 itself is slow to compare.
    bits = stack.reshape(len(stack), -1).view(f"u{stack.itemsize}")
    reach = (bits & np.array(2 ** (8 * stack.itemsize - 1) - 1, bits.dtype)).max(axis=1).view(stack.dtype)
    wrong = np.flatnonzero(~(reach <= MAX_LATENT))
    if len(wrong):
        endless = not np.isfinite(reach[wrong]).all()
        what = "NaN or infinite" if endless else f"as large as {reach[wrong].max():,.0f}, no latents are"
        raise LatentkitError(
            f"{latents.name}: latents are {what}; by key: {named(latents.keys, positions[wrong])}"
        )


def named(keys: Sequence[str], positions: Iterable[int]) -> str:
    """The first few keys, and how many there are besides."""
    chosen = [keys[position] for position in positions]
    more = f" and {len(chosen) - NAMED:,} more" if len(chosen) > NAMED else ""
    return ", ".join(chosen[:NAMED]) + more


def ordered(keys: Sequence[str], name: str) -> tuple[list[str], np.ndarray]:
    """Keys ascending, and each one's row, int64 [N]. Raises LatentkitError for one that is there twice."""
    rows = sorted(range(len(keys)), key=keys.__getitem__)
    ascending = [keys[row] for row in rows]
    for first, second in pairwise(ascending):
        if first == second:
            raise LatentkitError(f"{name} has the key {first!r} twice")
    return ascending, np.array(rows, np.int64)
