"""Sharding: the complete samples of an `NpyStore` into tars for WebDataset, bucket by bucket.

``<shards_dir>/bucket_<WxH>/shard-%06d.tar`` and ``manifest.json``. Tar *k* of a bucket holds the samples
``[k*S, (k+1)*S)`` of its order: by key, or by a hash of seed and key, which is a permutation that needs no
memory and that no other sample disturbs. A sample whose arrays are damaged is left out of its tar and moves
no other.

A tar that is to change leaves the manifest before it changes, and comes back after it, so the manifest never
speaks of other bytes than lie there; what was finished before a kill is not made again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from latentkit.errors import LatentkitError, UsageError
from latentkit.exports.manifest import BucketEntry, PlannedTar, TarEntry, TarManifest, TarPlan, divide
from latentkit.exports.tar_file import RECORD, TarSample, publish_tar
from latentkit.prediction.plan import check_room
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.stores.lock import OutputLock
from latentkit.stores.npy import NpyStore
from latentkit.stores.open import npy_outputs
from latentkit.stores.samples import Sample, declared_fields, find_samples, read_sample
from latentkit.stores.storage import remove_many, remove_temporaries
from latentkit.stores.store import LEDGERS

_MEMBER = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TarResult:
    """What was done: tars and bytes written, in how many seconds; tars left by an interruption."""

    tars: int
    bytes: int
    seconds: float
    left: int


@dataclass(kw_only=True)
class TarJob:
    """The complete samples of a store into tars.

    Attributes:
        store: whose outputs.
        shards_dir: where the tars go.
        shard_size: samples a tar.
        buckets: only these, the others stay as they are; None: all.
        shuffle: permute the samples of each bucket.
        seed: of the permutation.
        members: field of `latentkit.stores.samples` -> its member; one that is not named here takes its own
            name, its encoder's part of it replaced by that encoder's member.
        contracts: encoder -> contract, of all that goes into the tars.
        member_names: field -> member, of all fields.

    Raises:
        UsageError: nothing encoded, or values that cannot be.
    """

    store: NpyStore
    shards_dir: str
    shard_size: int = 1000
    buckets: Sequence[str] | None = None
    shuffle: bool = False
    seed: int = 0
    members: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UsageError(f"shard_size={self.shard_size}: give at least 1 picture a tar")
        if not self.shards_dir or Path(self.shards_dir).resolve() == Path(self.store.root).resolve():
            raise UsageError(f"shards_dir={self.shards_dir}: give a folder other than output_dir")
        self._folder = Path(self.shards_dir)
        self._outputs = npy_outputs(self.store.root, self.store.folders.values())
        self.contracts = {name: output.contract for name, output in self._outputs.items()}
        self.member_names: dict[str, str] = {}
        for encoder, contract in self.contracts.items():
            short = self.members.get(encoder, encoder)
            for name in declared_fields({encoder: contract}):
                self.member_names[name] = self.members.get(name, short + name.removeprefix(encoder))
        self._shuffle_seed = self.seed if self.shuffle else None
        self._records = Path(self.store.root, self.store.records)
        names = [*self.member_names.values(), RECORD]
        for name in names:
            if not _MEMBER.fullmatch(name) or names.count(name) > 1:
                raise UsageError(f"members: {name!r} must be there once, of small letters, digits, _ and -")

    @contextmanager
    def locks(self) -> Iterator[None]:
        """Nobody encodes into the store, and nobody else writes the tars."""
        with OutputLock(self.store.root), OutputLock(self._folder):
            yield

    def plan(self) -> TarPlan:
        """Compare what should be there with what is. Reads no arrays but damaged ones, changes nothing.

        Raises:
            UsageError: no such bucket, or other buckets' tars that could not lie beside these.
            LatentkitError: no complete record, or no room.
        """
        found = find_samples(self._outputs, self._records)
        grouped: dict[str, list[Sample]] = {}
        for sample in found.complete:
            grouped.setdefault(sample.bucket, []).append(sample)
        chosen = sorted(grouped if self.buckets is None else set(self.buckets))
        if absent := sorted(set(chosen) - grouped.keys()):
            there = ", ".join(sorted(grouped))
            raise UsageError(f"bucket={absent[0]}: no complete picture; there are {there}")
        old = self._old_manifest()
        manifest = TarManifest(contracts=self.contracts, members=self.member_names)
        manifest.incomplete, manifest.lacking = found.incomplete, found.lacking
        if self.buckets is not None:
            manifest.keep_others(old, chosen)
        todo: list[PlannedTar] = []
        for bucket in chosen:
            tars = divide(bucket, grouped[bucket], self.shard_size, self._shuffle_seed, manifest)
            current = [tar for tar in tars if self._is_current(tar, old.shards.get(tar.path))]
            manifest.shards |= {tar.path: old.shards[tar.path] for tar in current}
            whole = len(current) == len(tars)
            manifest.buckets[bucket] = BucketEntry(whole, self.shard_size, self._shuffle_seed)
            todo += [tar for tar in tars if tar.path not in manifest.shards]
        stale = self._stale({*manifest.shards, *(tar.path for tar in todo)}, chosen)
        plan = TarPlan(found, manifest, todo, stale)
        check_room(self._folder, plan.peak_bytes(self._folder))
        return plan

    def run(self, plan: TarPlan, console: Console) -> TarResult:
        """Write what is to be written, remove what is stale; to be called under the `locks`.

        Raises:
            LatentkitError: the disk is full, ... The tars that were finished stay.
        """
        for folder in (self._folder, self._folder / LEDGERS, *self._folder.glob("bucket_*")):
            remove_temporaries(folder, below=False)
        manifest, written = plan.manifest, 0
        manifest.publish(self._folder)
        remove_many(plan.stale)
        for folder in self._folder.glob("bucket_*"):
            with suppress(OSError):  # it holds tars
                folder.rmdir()
        if not plan.todo:
            return TarResult(0, 0, 0.0, 0)
        left = list(plan.todo)
        report = ProgressReport("shard", sum(len(tar.samples) for tar in left), console)
        with report, Interrupts() as interrupts:
            while left and not interrupts.asked:
                tar = left.pop(0)
                left_out: dict[str, str] = {}
                samples = self._load(tar.samples, left_out, report)
                facts = publish_tar(self._folder / tar.path, samples)
                entry = TarEntry(tar.path, tar.bucket, *facts, tar.inputs, left_out)
                manifest.shards[tar.path] = entry
                if all(other.bucket != tar.bucket for other in left):
                    manifest.buckets[tar.bucket] = replace(manifest.buckets[tar.bucket], complete=True)
                manifest.publish(self._folder)
                written += entry.bytes
        return TarResult(len(plan.todo) - len(left), written, report.seconds, len(left))

    def _old_manifest(self) -> TarManifest:
        """What is there; an empty one when there is none, or a damaged one: all tars are made again."""
        try:
            return TarManifest.read(self._folder)
        except UsageError:
            raise
        except LatentkitError:
            return TarManifest(contracts=self.contracts, members=self.member_names)

    def _is_current(self, tar: PlannedTar, entry: TarEntry | None) -> bool:
        """Whether the tar is there as it would be made now; what was left out must still be damaged."""
        if entry is None or entry.inputs != tar.inputs or tar.size(self._folder) != entry.bytes:
            return False
        return not any(self._load([each for each in tar.samples if each.key in entry.left_out], {}))

    def _stale(self, wanted: Set[str], chosen: Sequence[str]) -> list[Path]:
        names = ["*"] if self.buckets is None else chosen
        tars = [path for name in names for path in self._folder.glob(f"bucket_{name}/shard-*.tar")]
        return sorted(path for path in tars if path.relative_to(self._folder).as_posix() not in wanted)

    def _load(
        self, samples: Sequence[Sample], left_out: dict[str, str], report: ProgressReport | None = None
    ) -> Iterator[TarSample]:
        """Those that are sound; the others go into ``left_out``."""
        with self._records.open("rb") as records:
            for sample in samples:
                try:
                    line, _, arrays = read_sample(records, sample, self._outputs)
                    for name, array in arrays.items():
                        if not np.isfinite(array).all():
                            raise LatentkitError(f"{name} of {sample.key} is not finite: encode it again")
                except LatentkitError as error:
                    left_out[sample.key] = str(error)
                else:
                    yield sample.key, line, {self.member_names[name]: array for name, array in arrays.items()}
                if report is not None:
                    report.advance()
