"""What is recorded of latent shards: a manifest of them all, and a sidecar of what each was made from.

``manifest.json`` lies beside the shards and lists each one's size and sha256. A sidecar is
``.latentkit/done/<encoder>/shard_<k>.jsonl``. Its first line is the shard's: ``{"shard", "items", "count",
"bytes", "sha256", "contract"}`` (``shard`` is null when every picture of it failed). Then a line for every
picture of its range, in source order: ``{"key", "sha256", "size", "mtime_ns"}``; ``sha256`` is null for one
that failed and is not in the shard.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.sources.source import Fingerprint
from latentkit.stores.contract_file import checked_contract
from latentkit.stores.ledger import dump, publish_lines, read_source, source_fields
from latentkit.stores.storage import publish_json

KIND = "latentkit.latent_shards"
MANIFEST = "manifest.json"

SHARD = re.compile(r"shard_(\d{8})\.(?:safetensors|jsonl)")
"""The name of a shard, or of its sidecar."""


@dataclass(frozen=True, slots=True)
class Head:
    """A shard: its file's name (None: no file), pictures in its range and its file, the file's state."""

    shard: str | None
    items: int
    count: int
    bytes: int
    sha256: str | None
    contract: str


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
            classes, names = tuple(values["classes"]), tuple(values.get("class_names", ()))
            return cls(values["complete"] is True, contract, classes, names, shards)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{path} does not exist: give the folder of an encoding run's shards") from None
        except (OSError, ValueError, LookupError, TypeError, LatentkitError) as error:
            raise LatentkitError(
                f"{path} is no manifest of latent shards: {error}: encode again, or restore it"
            ) from None


def reopen(path: Path) -> None:
    """Let a manifest say that its shards are being changed; a damaged one says nothing."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        old = json.loads(path.read_bytes())
        publish_json(path, old | {"complete": False})


def shard_name(k: int) -> str:
    return f"shard_{k:08d}.safetensors"


@dataclass(frozen=True, order=True)
class Sidecar:
    """What one shard was made from; need not exist."""

    path: Path

    def publish(self, head: Head, entries: Iterator[tuple[str, Fingerprint | None]]) -> None:
        """Publish it; ``entries`` are (key, what it was made from), None for a picture that failed."""
        lines = (dump({"key": key, **source_fields(source)}) for key, source in entries)
        publish_lines(self.path, itertools.chain([dump(asdict(head))], lines))

    def head(self) -> Head | None:
        """Its first line; None when it is missing or damaged: the shard counts as not there."""
        try:
            with self.path.open("rb") as file:
                head = Head(**json.loads(file.readline()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        numbers = (head.items, head.count, head.bytes)
        return head if all(isinstance(number, int) for number in numbers) else None

    def entries(self) -> list[tuple[str, Fingerprint | None]] | None:
        """Its pictures; None when it is missing or damaged: the shard counts as not there."""
        try:
            with self.path.open("rb") as file:
                next(file, None)
                return [(entry["key"], read_source(entry)) for entry in map(json.loads, file)]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def sidecars(root: Path, encoder: str) -> list[Sidecar]:
    """Those that are there, in the order of the shards."""
    paths = (root / ".latentkit" / "done" / encoder).glob("shard_*")
    return sorted(Sidecar(path) for path in paths if SHARD.fullmatch(path.name))
