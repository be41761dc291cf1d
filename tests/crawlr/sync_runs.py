"""Syncs as real processes, tiny photos, and what lies in a library afterwards."""

from __future__ import annotations

import io
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from encode_process import Ended, run_verb
from photo_server import PhotoServer
from PIL import Image
from recipes import photo


@cache
def picture(seed: int, format: str = "JPEG") -> bytes:  # noqa: A002 - Pillow's word
    """A whole picture of 24x32 pixels."""
    file = io.BytesIO()
    Image.fromarray(photo(seed, 24, 32)).save(file, format)
    return file.getvalue()


def pictures(count: int) -> dict[str, bytes]:
    """p000, p001 ... in turn of each format."""
    formats = ("JPEG", "PNG", "WEBP", "GIF")
    return {f"p{n:03d}": picture(n, formats[n % 4]) for n in range(count)}


def sync(server: PhotoServer, work: Path, *arguments: str, **how: Any) -> Ended:
    """``latentkit.sync`` of the server's list, in `work`; `how` as for `run_verb`."""
    return run_verb("sync", f"base_url='{server.base_url}'", *arguments, cwd=work, **how)


def tree(work: Path) -> dict[str, bytes | str]:
    """Every file's bytes and every link's target, below ``data``, but what is a run's own."""
    own = {"lock", "summary.json"}
    return {
        str(path.relative_to(work)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted((work / "data").rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.name not in own
    }


def timeless(work: Path) -> dict[str, bytes | str]:
    """`tree`, without the times in the ledgers."""
    found = tree(work)
    for name, field in (("data/photos.jsonl", "mtime_ns"), ("data/quarantine.jsonl", "time")):
        if name in found:
            entries = lines(work / name)
            for entry in entries:
                entry.pop(field)
                entry.get("quarantine", {}).pop("time", None)
            found[name] = json.dumps(entries)
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ledger(work: Path) -> dict[str, dict[str, Any]]:
    """The photo ledger by filename; it is sorted and has each once."""
    entries = lines(work / "data/photos.jsonl")
    names = [entry["filename"] for entry in entries]
    assert names == sorted(set(names))
    return dict(zip(names, entries, strict=True))


def reasons(work: Path) -> dict[str, str]:
    """Key -> ``stage: reason`` of the quarantine ledger."""
    return {e["key"]: f"{e['stage']}: {e['reason']}" for e in lines(work / "data/quarantine.jsonl")}


def summary(work: Path) -> dict[str, Any]:
    """summary.json."""
    value: dict[str, Any] = json.loads((work / "data/summary.json").read_text())
    return value


def failures(work: Path) -> dict[str, str]:
    """Key -> reason, of the downloads that failed."""
    return {failure["key"]: failure["reason"] for failure in summary(work)["failures"]}


def raw(work: Path) -> dict[str, bytes]:
    """What lies in ``data/raw``."""
    folder = work / "data/raw"
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}  # noqa: PTH208


def links(work: Path) -> dict[str, str]:
    """What lies in ``data/approved``, and where it leads."""
    return {path.name: str(path.readlink()) for path in sorted((work / "data/approved").iterdir())}
