"""Latent shards: safetensors files of ``shard_size`` pictures each, and a manifest.

``<root>/<folder>/shard_<k>.safetensors`` holds the items ``[k*S, (k+1)*S)`` of the source in its order,
without those that failed, whoever encodes it: its bytes do not depend on the number of processes. Tensors
are the contract's outputs, and ``labels`` (int64) where the source has classes. ``manifest.json`` comes
last and says ``complete: true``; what each shard was made from is in its sidecar
(`latentkit.stores.shard_manifest`).
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import UsageError
from latentkit.prediction.plan import IsHeld, Unchanged, Unit
from latentkit.prediction.results import Encoded, Failure
from latentkit.runtime.provenance import versions
from latentkit.sources.source import Source
from latentkit.stores.contract_file import CONTRACT
from latentkit.stores.shard_file import ShardBuffer, check_outputs, publish_shard
from latentkit.stores.shard_manifest import KIND, MANIFEST, SHARD, Head, Sidecar, reopen, shard_name, sidecars
from latentkit.stores.storage import publish_json, remove_many
from latentkit.stores.store import LEDGERS, Counts, Store


@dataclass(kw_only=True)
class ShardStore(Store):
    """Shards; every picture's arrays have one shape.

    A shard is done when its sidecar has exactly the source's keys of its range, none of them changed, those
    that are absent still quarantined, and its file is there with the recorded size. Else it is encoded
    whole.

    Attributes:
        shard_size: pictures a shard.
        dataset, split: what the manifest says the pictures are.
    """

    foreign = CONTRACT

    shard_size: int = 10000
    dataset: str | None = None
    split: str | None = None
    _source: Source | None = field(default=None, init=False, repr=False)
    _units: dict[str, dict[int, Unit]] = field(default_factory=dict, init=False, repr=False)
    _buffers: dict[tuple[str, int], ShardBuffer] = field(default_factory=dict, init=False, repr=False)

    def missing(self, encoder: str, source: Source, unchanged: Unchanged, held: IsHeld) -> list[Unit]:
        contract = self._readable(encoder)
        units: list[Unit] = []
        for k in range(self.shard_count(source)):
            if contract is None or not self._is_done(encoder, contract, k, source, unchanged, held):
                left = np.array([i for i in self.span(k, source) if not held(i)], np.int64)
                units.append(Unit(k, left, True))
        return units

    def open(self, contracts: Mapping[str, Contract], rank: int = 0, overwrite: bool = False) -> None:
        super().open(contracts, rank, overwrite)
        if rank == 0:
            for encoder in contracts:
                reopen(self.manifest_path(encoder))

    def begin(self, encoder: str, units: Sequence[Unit], source: Source) -> None:
        """As `Store.begin`; a shard of which every picture is quarantined is closed here."""
        super().begin(encoder, units, source)
        self._source = source
        self._units[encoder] = {unit.id: unit for unit in units}
        for unit in units:
            if not len(unit.indices):
                self._buffer(encoder, unit.id)
                self._close_if_whole(encoder, unit.id)

    def write(self, *batches: Encoded) -> int:
        """Put batches into their shards' buffers; a shard that is whole is published.

        Raises:
            LatentkitError: one line: the disk is full, ... What was published before stays.
        """
        for encoded in batches:
            for row, index in enumerate(encoded.indices):
                buffer = self._buffer(encoded.encoder, index // self.shard_size)
                arrays = {name: array[row] for name, array in encoded.arrays.items()}
                buffer.put(index, arrays, encoded.sources[row])
            for k in sorted({index // self.shard_size for index in encoded.indices}):
                self._close_if_whole(encoded.encoder, k)
        return sum(array.nbytes for encoded in batches for array in encoded.arrays.values())

    def fail(self, failure: Failure) -> None:
        """Quarantine a picture; its shard goes without it."""
        super().fail(failure)
        k = failure.index // self.shard_size
        for encoder in failure.encoders:
            if k in self._units.get(encoder, {}):
                self._buffer(encoder, k).waiting.discard(failure.index)
                self._close_if_whole(encoder, k)

    def finish(self, source: Source, *, complete: bool) -> None:
        """Fold the quarantine, publish the manifests, then remove shards that they do not mention.

        Pictures of shards that are not whole are forgotten; they will be encoded again.
        """
        self._buffers.clear()
        self._fold()
        for encoder, contract in self._contracts.items():
            manifest = self.describe(encoder, contract, source, complete=complete)
            publish_json(self.manifest_path(encoder), manifest)
            listed = {shard["path"] for shard in manifest["shards"]}
            remove_many(path for path in self.arrays(self.folder(encoder)) if path.name not in listed)
            known = {self.sidecar(encoder, k) for k in range(self.shard_count(source))}
            remove_many(there.path for there in sidecars(Path(self.root), encoder) if there not in known)

    def describe(self, encoder: str, contract: Contract, source: Source, *, complete: bool) -> dict[str, Any]:
        """The manifest that the sidecars make, as JSON values.

        Args:
            encoder: whose shards.
            contract: theirs.
            source: the collection.
            complete: whether that is all of the collection, and final.
        """
        found = (self.sidecar(encoder, k).head() for k in range(self.shard_count(source)))
        heads = [head for head in found if head is not None]
        return {
            "kind": KIND,
            "complete": complete,
            "contract": contract.to_dict(),
            "contract_sha256": contract.sha256,
            "dataset": self.dataset,
            "split": self.split,
            "classes": list(source.classes),
            **({"class_names": list(source.class_names)} if source.class_names else {}),
            "total": sum(head.count for head in heads),
            "quarantined": sum(head.items - head.count for head in heads),
            "shard_size": self.shard_size,
            "shards": [
                {"path": head.shard, "count": head.count, "bytes": head.bytes, "sha256": head.sha256}
                for head in heads
                if head.shard is not None
            ],
            "versions": versions(),
        }

    def counts(self, encoder: str) -> Counts:
        found = (sidecar.head() for sidecar in sidecars(Path(self.root), encoder))
        heads = [head for head in found if head is not None]
        return Counts(sum(head.count for head in heads), sum(head.bytes for head in heads))

    def manifest_path(self, encoder: str) -> Path:
        """Where an encoder's manifest lies, beside its shards."""
        return self.folder(encoder) / MANIFEST

    def sidecar(self, encoder: str, k: int) -> Sidecar:
        """It says what shard k holds."""
        return Sidecar(Path(self.root, LEDGERS, "done", encoder, f"shard_{k:08d}.jsonl"))

    def shard_count(self, source: Source) -> int:
        """Shards of a collection, those among them of which every picture failed."""
        return math.ceil(len(source) / self.shard_size)

    def span(self, k: int, source: Source) -> range:
        """The source indices of a shard."""
        return range(k * self.shard_size, min((k + 1) * self.shard_size, len(source)))

    def array_folders(self) -> list[Path]:
        return sorted({self.folder(encoder) for encoder in {*self.encoders_begun(), *self._contracts}})

    def encoders_begun(self) -> list[str]:
        """Of which there is a contract or a sidecar, sorted by name."""
        folders = (Path(self.root, LEDGERS, "contracts"), Path(self.root, LEDGERS, "done"))
        named = {path.stem for folder in folders for path in folder.glob("*") if path.suffix in {"", ".json"}}
        return sorted(named | {name for name in self.folders if self.manifest_path(name).exists()})

    def sized_as_there(self, encoder: str) -> Self:
        """The same, with the shard size of what is there."""
        return dataclasses.replace(self, shard_size=self.place(encoder)["shard_size"])

    def _is_done(
        self, encoder: str, contract: Contract, k: int, source: Source, unchanged: Unchanged, held: IsHeld
    ) -> bool:
        sidecar, items = self.sidecar(encoder, k), self.span(k, source)
        head, entries = sidecar.head(), sidecar.entries()
        if head is None or entries is None or head.contract != contract.sha256:
            return False
        there = head.count == 0
        if head.shard is not None:
            file = self.folder(encoder) / head.shard
            there = file.is_file() and file.stat().st_size == head.bytes
        if not there or [key for key, _ in entries] != [source[i].key for i in items]:
            return False
        pairs = zip(items, (made_from for _, made_from in entries), strict=True)
        return all(held(i) if made_from is None else unchanged(i, made_from) for i, made_from in pairs)

    def _buffer(self, encoder: str, k: int) -> ShardBuffer:
        if (encoder, k) not in self._buffers:
            unit, outputs = self._units[encoder][k], self._contracts[encoder].outputs
            self._buffers[encoder, k] = ShardBuffer(unit.indices, outputs)
        return self._buffers[encoder, k]

    def _close_if_whole(self, encoder: str, k: int) -> None:
        buffer = self._buffers[encoder, k]
        if buffer.waiting:
            return
        source, contract = self._source, self._contracts[encoder]
        assert source is not None, "begin comes before write"
        indices, tensors = buffer.compact()
        keys = [source[i].key for i in indices]
        if source.classes:
            tensors["labels"] = np.array([source[i].label for i in indices], np.int64)
        self._release(encoder, keys)
        name, size, digest = None, 0, None
        if keys:
            name = shard_name(k)
            size, digest = publish_shard(self.folder(encoder) / name, tensors, keys, contract.sha256)
        items = self.span(k, source)
        head = Head(name, len(items), len(keys), size, digest, contract.sha256)
        entries = ((source[i].key, buffer.sources.get(i)) for i in items)
        self.sidecar(encoder, k).publish(head, entries)
        del self._buffers[encoder, k], self._units[encoder][k]

    def check_layout(self, contracts: Mapping[str, Contract]) -> None:
        """As `Store.check_layout`; and shards can hold these outputs."""
        super().check_layout(contracts)
        if self.shard_size < 1:
            raise UsageError(f"shard_size={self.shard_size}: give at least 1 picture a shard")
        for encoder, contract in contracts.items():
            check_outputs(encoder, contract.outputs, self.shard_size)

    def contract_files(self, encoder: str) -> list[Path]:
        return [Path(self.root, LEDGERS, "contracts", f"{encoder}.json"), self.manifest_path(encoder)]

    def _differences(self, encoder: str, there: Contract, asked: Contract) -> list[tuple[str, Any, Any]]:
        ours, theirs = self.place(encoder), self.fixed()
        differing = [(name, ours[name], theirs[name]) for name in theirs if ours[name] != theirs[name]]
        return super()._differences(encoder, there, asked) + differing

    def place(self, encoder: str) -> dict[str, Any]:
        """What of `fixed` the contract file there says. The contract must be readable."""
        path = next(filter(Path.exists, self.contract_files(encoder)))
        there = json.loads(path.read_bytes())
        return {name: there.get(name) for name in self.fixed()}

    def fixed(self) -> dict[str, Any]:
        return {"shard_size": self.shard_size, "dataset": self.dataset, "split": self.split}

    def ledgers(self, encoder: str) -> list[Path]:
        return [self.manifest_path(encoder), *(there.path for there in sidecars(Path(self.root), encoder))]

    def arrays(self, folder: Path) -> Iterator[Path]:
        return (path for path in folder.glob("shard_*") if SHARD.fullmatch(path.name))
