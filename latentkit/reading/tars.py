"""Encoded pictures for training, from the tars of ``latentkit.shard``: a stream, batched by aspect bucket."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from latentkit.errors import LatentkitError, UsageError
from latentkit.exports.manifest import TarEntry, TarManifest
from latentkit.exports.tar_file import RECORD, read_tar
from latentkit.reading.tensors import Asked, Tensors, chosen
from latentkit.stores.arrays import parse_npy
from latentkit.stores.samples import declared_fields


class LatentTars(IterableDataset[dict[str, Any]]):
    """The samples of a folder of tars, as `LatentFiles` gives them; with ``batch_size``, collated batches.

    Tars are read front to back, one open for each bucket. Give the DataLoader ``batch_size=None``: this
    divides, shuffles and batches by itself. A batch is of one aspect bucket; a bucket's last may be smaller.

    Every sample is there once an epoch over all ranks and their workers. Each rank has as many samples and
    batches of each bucket as any other: where a bucket's number does not divide, some of its samples (fewer
    than ``world_size``) come twice. With the same number of workers, all ranks have batches of the same
    bucket at every step.

    Args:
        folder: of ``manifest.json``.
        batch_size: samples a batch; None: single samples.
        buckets: only these; None: all.
        encoders: read only these; None: all that are there.
        scaled, require, allow_random: as in `LatentFiles`.
        shuffle_buffer: 0: bucket by bucket in the order of the tars. More: buckets mixed, tars in another
            order every epoch (call `set_epoch`), samples drawn from so many of a bucket in memory, in each
            worker; 1 leaves the samples of a tar in order, right for tars made with ``shuffle=true``.
        seed: of that order.
        rank, world_size: of this process.

    Attributes:
        contracts: encoder -> `Contract`.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: the manifest is missing, or its tars are not finished; or, while reading, names the
            tar that is missing, damaged, or of another size than the manifest says.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int | None = None,
        buckets: Sequence[str] | None = None,
        encoders: Sequence[str] | None = None,
        scaled: bool = False,
        require: Asked | None = None,
        allow_random: bool = False,
        shuffle_buffer: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if (batch_size is not None and batch_size < 1) or not 0 <= rank < world_size:
            raise UsageError(f"batch_size={batch_size}, rank={rank}, world_size={world_size}: cannot be")
        self._folder = Path(folder)
        manifest = TarManifest.read(self._folder)
        if not manifest.complete:
            raise LatentkitError(f"{folder}: its tars are not finished: run latentkit.shard again")
        self.contracts = chosen(manifest.contracts, encoders, folder)
        self._tensors = Tensors(self.contracts, scaled, require, allow_random)
        self._members = {
            field: (f"{manifest.members[field]}.npy", declared)
            for field, declared in declared_fields(self.contracts).items()
        }
        self._buckets = [
            [tar for _, tar in sorted(manifest.shards.items()) if tar.bucket == bucket and tar.count]
            for bucket in sorted(chosen(manifest.buckets, buckets, folder))
        ]
        self._batch_size, self._shuffle_buffer, self._seed = batch_size, shuffle_buffer, seed
        self._rank, self._world_size, self._epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass. Not while persistent workers live: these have copies."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Samples or batches of this rank, the same for all."""
        return sum(self._batches(tars) for tars in self._buckets)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        order = np.random.default_rng([self._seed, self._epoch])  # the same in all ranks and workers
        streams: list[Iterator[dict[str, Any]]] = []
        counts: list[int] = []
        for tars in self._buckets:
            if self._shuffle_buffer:
                tars = [tars[i] for i in order.permutation(len(tars))]
            batches = self._batches(tars)
            first, last = worker * batches // workers, (worker + 1) * batches // workers
            streams.append(self._stream(tars, first, last, [self._seed, self._epoch, self._rank, worker]))
            counts.append(last - first)
        turns = np.repeat(np.arange(len(streams)), counts)
        if self._shuffle_buffer:
            turns = np.random.default_rng([self._seed, self._epoch, worker]).permutation(turns)
        for turn in turns:
            yield next(streams[turn])

    def _share(self, tars: Sequence[TarEntry]) -> int:
        """Samples of a bucket for each rank."""
        return -(-sum(tar.count for tar in tars) // self._world_size)

    def _batches(self, tars: Sequence[TarEntry]) -> int:
        return -(-self._share(tars) // (self._batch_size or 1))

    def _stream(
        self, tars: Sequence[TarEntry], first: int, last: int, seed: Sequence[int]
    ) -> Iterator[dict[str, Any]]:
        """Batches ``first`` to ``last`` (excluded) of this rank's share of a bucket."""
        share, size = self._share(tars), self._batch_size or 1
        begin = self._rank * share + first * size
        samples = self._samples(tars, begin, self._rank * share + min(last * size, share))
        if self._shuffle_buffer > 1:
            samples = _shuffled(samples, self._shuffle_buffer, np.random.default_rng(seed))
        if self._batch_size is None:
            yield from samples
            return
        while batch := list(itertools.islice(samples, size)):
            try:
                yield default_collate(batch)
            except RuntimeError:
                raise LatentkitError(
                    f"{self._folder}: arrays of different shapes make no batch: encode with aspect buckets, "
                    "or read with batch_size=None"
                ) from None

    def _samples(self, tars: Sequence[TarEntry], begin: int, end: int) -> Iterator[dict[str, Any]]:
        """Samples ``begin`` to ``end`` (excluded) of the tars one after another, from the start again after
        the last."""
        position = 0
        while position < end:
            for tar in tars:
                start, stop = max(begin - position, 0), min(end - position, tar.count)
                if start < stop:
                    yield from self._read(tar, start, stop)
                position += tar.count

    def _read(self, tar: TarEntry, start: int, stop: int) -> Iterator[dict[str, Any]]:
        path = self._folder / tar.path
        for members in read_tar(path, tar.bytes, start, stop):
            record: dict[str, Any] = {}
            try:
                record = json.loads(members[RECORD])
                arrays = {
                    field: parse_npy(members[member], declared)
                    for field, (member, declared) in self._members.items()
                }
                sample = self._tensors.sample(record, tar.bucket, arrays)
            except (KeyError, TypeError, ValueError) as error:
                raise LatentkitError(
                    f"{path}: {record.get('image_id', '?')} is damaged: {error}: run latentkit.shard again"
                ) from None
            yield sample


def _shuffled(
    samples: Iterator[dict[str, Any]], buffer: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Each sample once, drawn from so many in memory."""
    held: list[dict[str, Any]] = []
    for sample in samples:
        held.append(sample)
        if len(held) == buffer:
            index = int(rng.integers(buffer))
            held[index], held[-1] = held[-1], held[index]
            yield held.pop()
    for index in rng.permutation(len(held)):
        yield held[index]
