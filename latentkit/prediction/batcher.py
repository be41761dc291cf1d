"""Rows to batches of one shape."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch

_T = TypeVar("_T")

OPEN_BATCHES = 32


@dataclass
class Filled(Generic[_T]):
    """A batch: what was said of each row, and tensors [B, ...] in native byte order."""

    tensors: tuple[torch.Tensor, ...]
    rows: list[_T] = field(default_factory=list)


class Batcher(Generic[_T]):
    """Fills batches with rows of equal shapes and types; each array is copied once.

    Copies are numpy's, in this thread alone: torch would split each among threads, and these would wait for
    the processors that the decoding processes keep busy (87 in place of 316 pictures/s with 16 of them).

    Args:
        size: rows of a whole batch.
        pin: whether batches lie in pinned memory, from which a GPU copies without waiting.
        open_batches: how many fill up at one time. Where rows come in more shapes, the oldest batch goes
            before it is whole.
    """

    def __init__(self, size: int, *, pin: bool = False, open_batches: int = OPEN_BATCHES) -> None:
        self._size, self._pin, self._most = size, pin, open_batches
        self._filling: dict[Hashable, Filled[_T]] = {}

    def add(self, row: _T, *arrays: np.ndarray) -> list[Filled[_T]]:
        """Take in a row; arrays may be views of memory that is used again. The batches that can go now."""
        kind = tuple((array.shape, array.dtype) for array in arrays)
        ready = []
        if kind not in self._filling:
            if len(self._filling) == self._most:
                ready.append(self._taken(next(iter(self._filling))))
            self._filling[kind] = Filled(tuple(map(self._room, arrays)))
        batch = self._filling[kind]
        for tensor, array in zip(batch.tensors, arrays, strict=True):
            tensor.numpy()[len(batch.rows)] = array
        batch.rows.append(row)
        if len(batch.rows) == self._size:
            ready.append(self._taken(kind))
        return ready

    def rest(self) -> list[Filled[_T]]:
        """The batches that are not whole."""
        return [self._taken(kind) for kind in list(self._filling)]

    def _room(self, array: np.ndarray) -> torch.Tensor:
        like = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("=")))
        return like.new_empty((self._size, *array.shape), pin_memory=self._pin)

    def _taken(self, kind: Hashable) -> Filled[_T]:
        batch = self._filling.pop(kind)
        return Filled(tuple(tensor[: len(batch.rows)] for tensor in batch.tensors), batch.rows)
