"""Decoded pictures and captions to full batches of one encoder and one shape.

The last batch of a unit is padded by repeating its last picture, so that every forward pass of an encoder
and shape runs the same kernels, and a picture's numbers do not depend on how a run was interrupted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from latentkit.encoders.encoder import Encoder
from latentkit.pixels import BucketCrop
from latentkit.prediction.decoding import ChunkDecoder, Row, decoded_rows
from latentkit.prediction.plan import Unit, caption_fingerprint
from latentkit.prediction.processes import Stoppable
from latentkit.prediction.results import Failure
from latentkit.sources.source import Fingerprint, Source

_T = TypeVar("_T")

OPEN_BATCHES = 32
"""Batches that fill up at one time. Where pictures come in more shapes, the oldest goes before it is full."""


@dataclass(frozen=True)
class Batch:
    """One encoder's input.

    Attributes:
        encoder: its name.
        indices, keys, facts, sources: of the real pictures, in order; the padding is not among them.
        tensors: the network's keyword arguments; first dimension the encoder's batch size.
    """

    encoder: str
    indices: list[int]
    keys: list[str]
    facts: list[dict[str, Any]]
    sources: list[Fingerprint]
    tensors: dict[str, torch.Tensor]


class BatchStream(Stoppable):
    """The prediction dataloader: an iterable of full batches, unit by unit.

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
        batches = itertools.chain(self._captions(readers), self._pictures(viewers))
        return itertools.takewhile(lambda _: not self.stopped, batches)

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
                        _padded(captions, encoder.batch_size),
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
        filling: dict[tuple[int, torch.Size], _Pixels] = {}
        for (row, pixels), mask, unit_ends_here in zip(
            rows, takers.tolist(), unit_ends.tolist(), strict=True
        ):
            bits = [bit for bit in range(len(encoders)) if mask >> bit & 1]
            if row.stage:
                self._report(row, tuple(encoders[bit].name for bit in bits))
            else:
                self._notice(row.notes)
                for bit in bits:
                    picture = pixels[views[bit]]
                    if (bit, picture.shape) not in filling:
                        if len(filling) == OPEN_BATCHES:
                            oldest = next(iter(filling))
                            yield self._picture_batch(encoders[oldest[0]], filling.pop(oldest))
                        empty = _Pixels(picture, encoders[bit].batch_size, self._pin)
                        filling[bit, picture.shape] = empty
                    batch = filling[bit, picture.shape]
                    batch.append(row, picture)
                    if batch.full:
                        yield self._picture_batch(encoders[bit], filling.pop((bit, picture.shape)))
            if unit_ends_here:
                for (bit, _), batch in filling.items():
                    yield self._picture_batch(encoders[bit], batch)
                filling.clear()

    def _report(self, row: Row, encoders: tuple[str, ...]) -> None:
        key = self._source[row.index].key
        self._fail(Failure(row.index, key, row.stage, row.reason, encoders, row.source))

    def _picture_batch(self, encoder: Encoder, batch: _Pixels) -> Batch:
        rows = batch.rows
        facts: list[dict[str, Any]] = [{"width": row.width, "height": row.height} for row in rows]
        if isinstance(encoder.geometry, BucketCrop):
            unusual = [row for row in rows if BucketCrop.unusual(row.width, row.height)]
            self._notice(("unusual aspect",) * len(unusual))
        if encoder.geometry is not None:
            facts = [fact | encoder.geometry.facts(fact["width"], fact["height"]) for fact in facts]
        sources = [row.source for row in rows if row.source is not None]
        return self._batch(encoder, [row.index for row in rows], batch.padded(), facts, sources)

    def _batch(
        self,
        encoder: Encoder,
        indices: list[int],
        inputs: torch.Tensor | list[str],
        facts: list[dict[str, Any]],
        sources: list[Fingerprint],
    ) -> Batch:
        keys = [self._source[index].key for index in indices]
        tensors, told = encoder.batch(_padded(keys, encoder.batch_size), inputs)
        if self._pin:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        facts = [fact | more for fact, more in zip(facts, told, strict=False)]
        for fact in facts:
            if fact.get("cut"):
                self._notice(("caption cut",))
        return Batch(encoder.name, indices, keys, facts, sources, tensors)


class _Pixels:
    """A batch that fills up: pictures of one shape, each copied once, to where the device reads them.

    Copies are numpy's, in this thread alone: torch would split each among threads, and these would wait for
    the processors that the decoding processes keep busy (87 in place of 316 pictures/s with 16 of them).

    Args:
        like: a picture, [H, W, C].
        size: pictures a batch.
        pin: whether to lie in pinned memory.
    """

    def __init__(self, like: torch.Tensor, size: int, pin: bool) -> None:
        self.rows: list[Row] = []
        self._tensor = torch.empty((size, *like.shape), dtype=like.dtype, pin_memory=pin)
        self._array = self._tensor.numpy()

    @property
    def full(self) -> bool:
        return len(self.rows) == len(self._array)

    def append(self, row: Row, pixels: torch.Tensor) -> None:
        self._array[len(self.rows)] = pixels.numpy()
        self.rows.append(row)

    def padded(self) -> torch.Tensor:
        """[size, H, W, C], what is left filled with the last picture."""
        self._array[len(self.rows) :] = self._array[len(self.rows) - 1]
        return self._tensor


def _padded(values: list[_T], size: int) -> list[_T]:
    return values + values[-1:] * (size - len(values))


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
