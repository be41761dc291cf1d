"""The lines of a prune's plan, see `latentkit.upkeep.trash`, and what they say of a thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISLNK
from typing import Any

Entry = dict[str, Any]
"""A line of the plan: ``kind`` and what that kind needs."""


def head_of(plan: Path) -> dict[str, Any]:
    with plan.open("rb") as file:
        head: dict[str, Any] = json.loads(file.readline())
    return head


def lines_of(plan: Path, kind: str | None = None) -> Iterator[Entry]:
    with plan.open("rb") as file:
        next(file)
        for line in file:
            entry = json.loads(line)
            if kind is None or entry["kind"] == kind:
                yield entry


def keys_of(plan: Path, kind: str) -> dict[str, set[str]]:
    """Encoder -> keys of the removed lines of its done ledger; an empty name for the quarantine."""
    keys: dict[str, set[str]] = {}
    for entry in lines_of(plan, kind):
        keys.setdefault(entry.get("encoder", ""), set()).add(entry["key"])
    return keys


def name_of(entry: Entry) -> tuple[str, ...]:
    """Tells a plan's line from the others, but for lines of one key in one file."""
    if "line" in entry:
        return entry["kind"], entry.get("encoder", ""), entry["key"]
    return entry["kind"], entry.get("folder", ""), entry["name"]


def state_of(path: Path) -> str | list[int] | None:
    """A link's target, a file's size and mtime in nanoseconds; None where nothing is."""
    try:
        stat = path.lstat()
        return str(path.readlink()) if S_ISLNK(stat.st_mode) else [stat.st_size, stat.st_mtime_ns]
    except FileNotFoundError:
        return None


def as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
