"""``manifest.json`` of a folder of latent shards: what they hold, and each one's size and sha256."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.provenance import versions
from latentkit.sources.source import Source
from latentkit.stores.contract_file import checked_contract
from latentkit.stores.sidecar import SHARD, Head
from latentkit.stores.storage import publish_json

KIND = "latentkit.latent_shards"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: its file's name, its pictures, and the file's size in bytes and sha256."""

    path: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardManifest:
    """A manifest as a reader needs it.

    Attributes:
        complete: False while its shards are being changed, and after a run that was stopped.
        contract: what the numbers mean.
        classes, class_names: as in `Source`; a label is an index into them.
        shards: in the order of the collection.
    """

    complete: bool
    contract: Contract
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    shards: tuple[ShardEntry, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it without trust.

        Raises:
            UsageError: there is none.
            LatentkitError: it is damaged, or its numbers or its contract's hash do not fit.
        """
        try:
            values = json.loads(path.read_bytes())
            if values["kind"] != KIND:
                raise ValueError(f"its kind is {values['kind']!r}")
            contract = checked_contract(values["contract"], values["contract_sha256"])
            shards = tuple(ShardEntry(**shard) for shard in values["shards"])
            if not all(SHARD.fullmatch(shard.path) for shard in shards):
                raise ValueError("it lists a file that is no shard")
            if len({shard.path for shard in shards}) != len(shards):
                raise ValueError("it lists a shard twice")
            if sum(shard.count for shard in shards) != values["total"]:
                raise ValueError("its total is not the sum of its shards")
            return cls(
                values["complete"] is True,
                contract,
                tuple(values["classes"]),
                tuple(values.get("class_names", ())),
                shards,
            )
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{path} does not exist: give the folder of an encoding run's shards") from None
        except (OSError, ValueError, LookupError, TypeError, LatentkitError) as error:
            raise LatentkitError(
                f"{path} is no manifest of latent shards: {error}: encode again, or restore it"
            ) from None


def describe(
    place: Mapping[str, Any], contract: Contract, source: Source, heads: Iterable[Head], *, complete: bool
) -> dict[str, Any]:
    """The manifest of shards, as JSON values.

    Args:
        place: ``shard_size``, ``dataset`` and ``split``.
        contract: the shards'.
        source: the collection.
        heads: what the sidecars say, in the collection's order.
        complete: whether that is all of the collection, and final.
    """
    heads = list(heads)
    return {
        "kind": KIND,
        "complete": complete,
        "contract": contract.to_dict(),
        "contract_sha256": contract.sha256,
        "dataset": place["dataset"],
        "split": place["split"],
        "classes": list(source.classes),
        **({"class_names": list(source.class_names)} if source.class_names else {}),
        "total": sum(head.count for head in heads),
        "quarantined": sum(head.items - head.count for head in heads),
        "shard_size": place["shard_size"],
        "shards": [
            {"path": head.shard, "count": head.count, "bytes": head.bytes, "sha256": head.sha256}
            for head in heads
            if head.shard is not None
        ],
        "versions": versions(),
    }


def reopen(path: Path) -> None:
    """Let a manifest say that its shards are being changed; a damaged one says nothing."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        old = json.loads(path.read_bytes())
        publish_json(path, old | {"complete": False})
