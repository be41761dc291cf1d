"""``manifest.json`` beside tars: what lies in them, under which contracts, made from what."""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError
from latentkit.runtime.provenance import versions
from latentkit.stores.contract_file import checked_contract
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

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder of tars.

        Raises:
            LatentkitError: there is none, it is another kind's, or it is damaged.
        """
        path = folder / NAME
        try:
            values = json.loads(path.read_bytes())
            if values["kind"] != KIND:
                raise LatentkitError(f"it is a manifest of {values['kind']}")
            tars = [TarEntry(**tar) for tar in values["shards"]]
            return cls(
                contracts={
                    name: checked_contract(there["contract"], there["sha256"])
                    for name, there in values["contracts"].items()
                },
                members=dict(values["members"]),
                buckets={name: BucketEntry(**bucket) for name, bucket in values["buckets"].items()},
                shards={tar.path: tar for tar in tars},
                incomplete=values["incomplete"]["records"],
                lacking=values["incomplete"]["lacking"],
            )
        except FileNotFoundError:
            raise LatentkitError(f"{path} does not exist: run latentkit.shard first") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, LatentkitError) as error:
            raise LatentkitError(f"{path} is no manifest of tars: {error}") from None
