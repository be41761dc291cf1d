"""What lies in a shard and what it was made from: ``.latentkit/done/<encoder>/shard_<k>.jsonl``.

The first line is the shard's: ``{"shard", "items", "count", "bytes", "sha256", "contract"}`` (``shard`` is
null when every picture of it failed). Then a line for every picture of its range, in source order:
``{"key", "sha256", "size", "mtime_ns"}``; ``sha256`` is null for one that failed and is not in the shard.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from latentkit.sources.source import Fingerprint
from latentkit.stores.ledger import dump, publish_lines, read_source, source_fields

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


def shard_name(k: int) -> str:
    return f"shard_{k:08d}.safetensors"


def sidecar_path(root: Path, encoder: str, k: int) -> Path:
    return root / ".latentkit" / "done" / encoder / f"shard_{k:08d}.jsonl"


def sidecars(root: Path, encoder: str) -> list[Path]:
    """Those that are there, in the order of the shards."""
    folder = sidecar_path(root, encoder, 0).parent
    return sorted(path for path in folder.glob("shard_*") if SHARD.fullmatch(path.name))


def publish_sidecar(path: Path, head: Head, entries: Iterator[tuple[str, Fingerprint | None]]) -> None:
    """Publish a sidecar; ``entries`` are (key, what it was made from), None for a picture that failed."""
    lines = (dump({"key": key, **source_fields(source)}) for key, source in entries)

    def all_lines() -> Iterator[bytes]:
        yield dump(asdict(head))
        yield from lines

    publish_lines(path, all_lines())


def read_head(path: Path) -> Head | None:
    """A sidecar's first line; None when it is missing or damaged: the shard counts as not there."""
    try:
        with path.open("rb") as file:
            head = Head(**json.loads(file.readline()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    numbers = (head.items, head.count, head.bytes)
    return head if all(isinstance(number, int) for number in numbers) else None


def read_entries(path: Path) -> list[tuple[str, Fingerprint | None]] | None:
    """A sidecar's pictures; None when it is missing or damaged: the shard counts as not there."""
    try:
        with path.open("rb") as file:
            next(file, None)
            return [(entry["key"], read_source(entry)) for entry in map(json.loads, file)]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
