"""Decoded pictures and captions to full batches of one encoder and one shape.

Batches never cross units; those of a unit's end may be smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.batcher import Batcher, Filled
from latentkit.prediction.decoding import ChunkDecoder, Row, decoded_rows
from latentkit.prediction.plan import Unit, caption_fingerprint
from latentkit.prediction.results import Failure
from latentkit.sources.source import Fingerprint, Source


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


class BatchStream:
    """The batches of a pass of encoders, unit by unit.

    Args:
        source: where the pictures are.
        encoders: those of this pass.
        units: encoder -> its units of this process, ascending by id.
        fail: told of every picture that could not be read or decoded.
        notice: told of each picture's notes: what was converted, captions that were cut.
        workers: processes that decode.
        pin: whether batches lie in pinned memory, from which a GPU copies asynchronously.
    """

    def __init__(
        self,
        source: Source,
        encoders: Sequence[Encoder],
        units: Mapping[str, Sequence[Unit]],
        *,
        fail: Callable[[Failure], None],
        notice: Callable[[tuple[str, ...]], None],
        workers: int,
        pin: bool,
    ) -> None:
        self._source = source
        self._encoders = encoders
        self._units = units
        self._fail = fail
        self._notice = notice
        self._workers = workers
        self._pin = pin

    def __iter__(self) -> Iterator[Batch]:
        readers = [encoder for encoder in self._encoders if encoder.geometry is None]
        viewers = [encoder for encoder in self._encoders if encoder.geometry is not None]
        yield from self._captions(readers)
        yield from self._pictures(viewers)

    def _captions(self, encoders: Sequence[Encoder]) -> Iterator[Batch]:
        for encoder in encoders:
            for unit in self._units[encoder.name]:
                for start in range(0, len(unit.indices), encoder.batch_size):
                    indices = unit.indices[start : start + encoder.batch_size].tolist()
                    items = [self._source[index] for index in indices]
                    captions = [item.caption or "" for item in items]
                    yield self._batch(
                        encoder,
                        indices,
                        captions,
                        [{} for _ in items],
                        [caption_fingerprint(caption) for caption in captions],
                    )

    def _pictures(self, encoders: Sequence[Encoder]) -> Iterator[Batch]:
        geometries = list(dict.fromkeys(e.geometry for e in encoders if e.geometry is not None))
        views = [geometries.index(e.geometry) for e in encoders if e.geometry is not None]
        units, indices, takers = _schedule([self._units[encoder.name] for encoder in encoders])
        if not len(indices):
            return
        wanted = np.zeros_like(takers)
        for bit, view in enumerate(views):
            wanted |= (takers >> bit & 1) << view
        rows = decoded_rows(ChunkDecoder(self._source, indices, wanted, geometries), self._workers)
        unit_ends = np.append(units[1:] != units[:-1], True)
        batchers = [Batcher[Row](encoder.batch_size, pin=self._pin) for encoder in encoders]
        for (row, pixels), mask, unit_ends_here in zip(
            rows, takers.tolist(), unit_ends.tolist(), strict=True
        ):
            bits = [bit for bit in range(len(encoders)) if mask >> bit & 1]
            if row.stage:
                self._report(row, tuple(encoders[bit].name for bit in bits))
            else:
                self._notice(row.notes)
                for bit in bits:
                    for filled in batchers[bit].add(row, pixels[views[bit]]):
                        yield self._picture_batch(encoders[bit], filled)
            if unit_ends_here:
                for encoder, batcher in zip(encoders, batchers, strict=True):
                    for filled in batcher.rest():
                        yield self._picture_batch(encoder, filled)

    def _report(self, row: Row, encoders: tuple[str, ...]) -> None:
        key = self._source[row.index].key
        self._fail(Failure(row.index, key, row.stage, row.reason, encoders, row.source))

    def _picture_batch(self, encoder: Encoder, filled: Filled[Row]) -> Batch:
        assert encoder.geometry is not None
        facts = [
            {"width": row.width, "height": row.height, **encoder.geometry.facts(row.width, row.height)}
            for row in filled.rows
        ]
        sources = [row.source for row in filled.rows if row.source is not None]
        return self._batch(encoder, [row.index for row in filled.rows], filled.tensors[0], facts, sources)

    def _batch(
        self,
        encoder: Encoder,
        indices: list[int],
        inputs: torch.Tensor | list[str],
        facts: list[dict[str, Any]],
        sources: list[Fingerprint],
    ) -> Batch:
        keys = [self._source[index].key for index in indices]
        tensors, told = encoder.batch(keys, inputs)
        if self._pin:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        facts = [fact | more for fact, more in zip(facts, told, strict=True)]
        for fact in facts:
            if fact.get("cut"):
                self._notice(("caption cut",))
        return Batch(encoder.name, indices, keys, facts, sources, tensors)


def _schedule(units: Sequence[Sequence[Unit]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pictures that any encoder still wants, by unit and index, each once.

    Args:
        units: for each encoder its units.

    Returns:
        Three int64 arrays [N]: unit id, source index, and a bit mask of the encoders that want the picture.
    """
    parts = [
        (np.full(len(unit.indices), unit.id), unit.indices, np.full(len(unit.indices), 1 << bit))
        for bit, of_encoder in enumerate(units)
        for unit in of_encoder
    ]
    if not parts:
        return (np.empty(0, np.int64),) * 3
    unit, index, bits = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    order = np.lexsort((index, unit))
    unit, index, bits = unit[order], index[order], bits[order]
    first = np.flatnonzero(np.append(True, (unit[1:] != unit[:-1]) | (index[1:] != index[:-1])))
    if not len(index):
        return unit, index, bits
    return unit[first], index[first], np.bitwise_or.reduceat(bits, first)
