"""Decoded pictures and captions to full batches of one encoder and one shape.

Batches never cross units; those of a unit's end may be smaller.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.decoding import ChunkDecoder, Row, decoded_rows
from latentkit.prediction.plan import Unit, caption_fingerprint
from latentkit.prediction.results import Failure
from latentkit.sources.source import Fingerprint, Source

_T = TypeVar("_T")


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

    def __init__(self, size: int, *, pin: bool = False, open_batches: int = 32) -> None:
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


@dataclass(frozen=True)
class Batch:
    """One encoder's input.

    Attributes:
        encoder: its name.
        indices, keys, facts, sources: of the B pictures, in order; B is at most the encoder's batch size.
        tensors: the network's keyword arguments, [B, ...] each.
    """

    encoder: str
    indices: list[int]
    keys: list[str]
    facts: list[dict[str, Any]]
    sources: list[Fingerprint]
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class BatchStream:
    """The batches of a pass of encoders, unit by unit.

    Attributes:
        source: where the pictures are.
        encoders: those of this pass.
        units: encoder -> its units of this process, ascending by id.
        fail: told of every picture that could not be read or decoded.
        notice: told of each picture's notes: what was converted, captions that were cut.
        workers: processes that decode.
        pin: whether batches lie in pinned memory, from which a GPU copies without waiting.
    """

    source: Source
    encoders: Sequence[Encoder]
    units: Mapping[str, Sequence[Unit]]
    fail: Callable[[Failure], None]
    notice: Callable[[tuple[str, ...]], None]
    workers: int
    pin: bool

    def __iter__(self) -> Iterator[Batch]:
        for encoder in self.encoders:
            if encoder.geometry is None:
                yield from self._captions(encoder)
        viewers = [encoder for encoder in self.encoders if encoder.geometry is not None]
        if any(len(unit.indices) for encoder in viewers for unit in self.units[encoder.name]):
            yield from self._pictures(viewers)

    def _captions(self, encoder: Encoder) -> Iterator[Batch]:
        for unit in self.units[encoder.name]:
            for start in range(0, len(unit.indices), encoder.batch_size):
                indices = unit.indices[start : start + encoder.batch_size].tolist()
                captions = [self.source[index].caption or "" for index in indices]
                rows = [Row(*row) for row in zip(indices, map(caption_fingerprint, captions), strict=True)]
                yield self._batch(encoder, rows, captions)

    def _pictures(self, encoders: Sequence[Encoder]) -> Iterator[Batch]:
        geometries = list(dict.fromkeys(e.geometry for e in encoders if e.geometry is not None))
        views = [geometries.index(e.geometry) for e in encoders if e.geometry is not None]
        units, indices, takers = _schedule([self.units[encoder.name] for encoder in encoders])
        wanted = np.zeros_like(takers)
        for bit, view in enumerate(views):
            wanted |= (takers >> bit & 1) << view
        rows = decoded_rows(ChunkDecoder(self.source, indices, wanted, geometries), self.workers)
        unit_ends = np.append(units[1:] != units[:-1], True)
        batchers = [Batcher[Row](encoder.batch_size, pin=self.pin) for encoder in encoders]
        schedule = zip(rows, takers.tolist(), unit_ends.tolist(), strict=True)
        for (row, pixels), mask, unit_ends_here in schedule:
            bits = [bit for bit in range(len(encoders)) if mask >> bit & 1]
            if row.stage:
                key, names = self.source[row.index].key, tuple(encoders[bit].name for bit in bits)
                self.fail(Failure(row.index, key, row.stage, row.reason, names, row.source))
            else:
                self.notice(row.notes)
                for bit in bits:
                    for filled in batchers[bit].add(row, pixels[views[bit]]):
                        yield self._batch(encoders[bit], filled.rows, filled.tensors[0])
            if unit_ends_here:
                for encoder, batcher in zip(encoders, batchers, strict=True):
                    for filled in batcher.rest():
                        yield self._batch(encoder, filled.rows, filled.tensors[0])

    def _batch(self, encoder: Encoder, rows: Sequence[Row], inputs: torch.Tensor | list[str]) -> Batch:
        keys = [self.source[row.index].key for row in rows]
        tensors, facts = encoder.batch(keys, inputs)
        if self.pin:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        if (geometry := encoder.geometry) is not None:
            facts = [
                {"width": row.width, "height": row.height, **geometry.facts(row.width, row.height), **fact}
                for row, fact in zip(rows, facts, strict=True)
            ]
        for fact in facts:
            if fact.get("cut"):
                self.notice(("caption cut",))
        sources = [row.source for row in rows if row.source is not None]
        return Batch(encoder.name, [row.index for row in rows], keys, facts, sources, tensors)


def _schedule(units: Sequence[Sequence[Unit]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pictures that any encoder still wants, by unit and index, each once.

    Args:
        units: for each encoder its units, at least one of all.

    Returns:
        Three int64 arrays [N]: unit id, source index, and a bit mask of the encoders that want the picture.
    """
    parts = [
        (np.full(len(unit.indices), unit.id), unit.indices, np.full(len(unit.indices), 1 << bit))
        for bit, of_encoder in enumerate(units)
        for unit in of_encoder
    ]
    ids, indices, bits = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    end = indices.max() + 1
    places, inverse = np.unique(ids * end + indices, return_inverse=True)
    takers = np.zeros_like(places)
    np.bitwise_or.at(takers, inverse, bits)
    return places // end, places % end, takers
