"""``manifest.json`` beside tars: what lies in them, under which contracts, made from what; and what is to be.

A plan compares the tars that the samples make with those that the manifest lists.
"""

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.provenance import versions
from latentkit.stores.contract_file import checked_contract
from latentkit.stores.samples import Sample, Samples
from latentkit.stores.storage import publish_json

KIND = "latentkit.webdataset_shards"
NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One tar.

    Attributes:
        path: under the manifest's folder.
        bucket: ``WxH`` or ``none``.
        count, bytes, sha256: samples in it, its size, the hash of its bytes.
        inputs: sha256 of what it was made from: contracts, members, and each sample's record and sources.
        left_out: key -> what is wrong with its arrays.
    """

    path: str
    bucket: str
    count: int
    bytes: int
    sha256: str
    inputs: str
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class BucketEntry:
    """How a bucket was divided. ``complete`` is False while its tars are being written.

    Attributes:
        shard_size: samples a tar, those left out included.
        shuffle_seed: of the permutation; None for the order of the keys.
    """

    complete: bool
    shard_size: int
    shuffle_seed: int | None


@dataclass(kw_only=True)
class TarManifest:
    """All of it.

    Attributes:
        contracts: encoder -> contract, of every array in the tars.
        members: field of `latentkit.stores.samples` -> its member, without ``.npy``.
        buckets: bucket -> how it was divided.
        shards: path -> tar.
        incomplete, lacking: records that were not complete, and how many lack what.
    """

    contracts: dict[str, Contract]
    members: dict[str, str]
    buckets: dict[str, BucketEntry] = field(default_factory=dict)
    shards: dict[str, TarEntry] = field(default_factory=dict)
    incomplete: int = 0
    lacking: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every tar that the settings ask for is there."""
        return all(bucket.complete for bucket in self.buckets.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON values, in an order that depends on nothing else."""
        return {
            "kind": KIND,
            "complete": self.complete,
            "contracts": {
                name: {"contract": contract.to_dict(), "sha256": contract.sha256}
                for name, contract in sorted(self.contracts.items())
            },
            "members": dict(sorted(self.members.items())),
            "total": sum(tar.count for tar in self.shards.values()),
            "incomplete": {"records": self.incomplete, "lacking": dict(sorted(self.lacking.items()))},
            "buckets": {name: asdict(bucket) for name, bucket in sorted(self.buckets.items())},
            "shards": [asdict(tar) for _, tar in sorted(self.shards.items())],
        }

    def publish(self, folder: Path) -> None:
        """Publish it, unless it is there already (by whatever versions)."""
        values = self.to_dict()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            there = json.loads((folder / NAME).read_bytes())
            there.pop("versions", None)
            if there == values:
                return
        publish_json(folder / NAME, values | {"versions": versions()})

    def keep_others(self, old: Self, chosen: Sequence[str]) -> None:
        """Take over the old entries of the buckets that were not chosen.

        Raises:
            UsageError: their tars mean something else.
        """
        kept = {bucket: entry for bucket, entry in old.buckets.items() if bucket not in chosen}
        if kept and (old.contracts != self.contracts or old.members != self.members):
            raise UsageError(
                f"the tars of {', '.join(sorted(kept))} hold other contracts or members than these would: "
                "leave bucket= out to make all of them again"
            )
        self.buckets |= kept
        self.shards |= {path: tar for path, tar in old.shards.items() if tar.bucket in kept}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder of tars.

        Raises:
            UsageError: it is another kind's.
            LatentkitError: there is none, or it is damaged.
        """
        path = folder / NAME
        try:
            values = json.loads(path.read_bytes())
            if values["kind"] == KIND:
                return cls(
                    contracts={
                        name: checked_contract(there["contract"], there["sha256"])
                        for name, there in values["contracts"].items()
                    },
                    members=dict(values["members"]),
                    buckets={name: BucketEntry(**bucket) for name, bucket in values["buckets"].items()},
                    shards={tar["path"]: TarEntry(**tar) for tar in values["shards"]},
                    incomplete=values["incomplete"]["records"],
                    lacking=values["incomplete"]["lacking"],
                )
        except FileNotFoundError:
            raise LatentkitError(f"{path} does not exist: run latentkit.shard first") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, LatentkitError) as error:
            raise LatentkitError(f"{path} is no manifest of tars: {error}") from None
        raise UsageError(f"{path}: another kind of store wrote there; choose another folder")


@dataclass(frozen=True, slots=True)
class PlannedTar:
    """A tar to be: its path under the folder, its samples in their order, `TarEntry.inputs`.

    ``bytes`` is an upper bound of its size.
    """

    path: str
    bucket: str
    samples: Sequence[Sample]
    inputs: str
    bytes: int

    def size(self, folder: Path) -> int:
        """In bytes, of what is there now; 0 when nothing is."""
        return _size_of(folder / self.path)


@dataclass(frozen=True)
class TarPlan:
    """What there is to do.

    Attributes:
        samples: the complete ones of all buckets, and what the other records lack.
        manifest: without the tars of ``todo``, their buckets not complete.
        todo: tars to write, in the order of their paths.
        stale: tars that no longer belong there.
    """

    samples: Samples
    manifest: TarManifest
    todo: list[PlannedTar]
    stale: list[Path]

    def peak_bytes(self, folder: Path) -> int:
        """Upper bound of the room that is needed on the way.

        Stale tars go first; each new one lies beside the one that it replaces until it is whole.
        """
        peak, level = 0, -sum(map(_size_of, self.stale))
        for tar in self.todo:
            peak = max(peak, level + tar.bytes)
            level += tar.bytes - tar.size(folder)
        return peak


def divide(
    bucket: str, samples: Sequence[Sample], shard_size: int, seed: int | None, manifest: TarManifest
) -> list[PlannedTar]:
    """A bucket's tars.

    Args:
        samples: those of the bucket, sorted by key.
        shard_size: samples a tar.
        seed: of their permutation, by sha256 of ``<seed>/<key>``; None: they stay in order.
        manifest: theirs; contracts and members change the tars too.
    """

    def place(sample: Sample) -> bytes:
        return hashlib.sha256(f"{seed}/{sample.key}".encode("utf-8", "surrogatepass")).digest()

    contracts = {name: contract.sha256 for name, contract in manifest.contracts.items()}
    settings = {"contracts": contracts, "members": manifest.members}
    ordered = samples if seed is None else sorted(samples, key=place)
    start = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("ascii"))
    tars: list[PlannedTar] = []
    for k in range(0, len(ordered), shard_size):
        some, inputs = ordered[k : k + shard_size], start.copy()
        for sample in some:
            inputs.update(sample.inputs)
        headers = 3 * tarfile.BLOCKSIZE * len(some) * (len(manifest.members) + 1)
        most = headers + sum(sample.bytes for sample in some) + tarfile.RECORDSIZE  # masks are not counted
        path = f"bucket_{bucket}/shard-{len(tars):06d}.tar"
        tars.append(PlannedTar(path, bucket, some, inputs.hexdigest(), most))
    return tars


def _size_of(path: Path) -> int:
    """A file's size in bytes; 0 when it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
