"""Where pruned things lie until the next prune, and how they come back.

``<root>/.latentkit/pruned/plan.jsonl`` lists the last prune: a head ``{"prune", "replaces"}`` (ids of this
prune and the one before), then a line a thing: records and ledger lines with their text, files and links by
their name. Files and links are renamed to ``.latentkit/pruned/<id>/<folder>/<name>`` under the output's root,
or the library's home; in the folder itself when that is another file system.

The plan is ``plan.begun.jsonl`` until all is gone, and ``plan.restoring.jsonl`` while things come back, so
that whoever comes after a kill knows what to finish. Every step can be repeated.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from latentkit.errors import LatentkitError
from latentkit.sources.files import printable
from latentkit.sources.library import Library
from latentkit.stores.ledger import (
    done_lines,
    dump,
    forget_done,
    publish_lines,
    remember_done,
)
from latentkit.stores.npy import NpyStore
from latentkit.stores.publish import move_many, remove_many, remove_tree
from latentkit.stores.quarantine import forget_quarantined, quarantine_lines, remember_quarantined
from latentkit.stores.records import drop_records, insert_records, numbered_records
from latentkit.stores.store import LEDGERS, hidden_folder

Entry = dict[str, Any]
"""A line of the plan: ``kind`` and what that kind needs."""

_SHOWN = 3


class Trash:
    """What the last prune of an output took.

    For one process that holds the locks; `unfinished` alone needs none.

    Args:
        store: the outputs.
        library: the photo library; None for another collection.
    """

    def __init__(self, store: NpyStore, library: Library | None) -> None:
        self._store = store
        self._root = Path(store.root)
        self._records = self._root / store.records
        self._library = library
        self._folder = self._root / LEDGERS / "pruned"
        self._plan = self._folder / "plan.jsonl"
        self._begun = self._folder / "plan.begun.jsonl"
        self._restoring = self._folder / "plan.restoring.jsonl"

    @property
    def unfinished(self) -> bool:
        """Whether a prune or a restore was killed on its way."""
        return self._begun.exists() or self._restoring.exists()

    def finish(self) -> None:
        """Finish what a killed prune or restore began."""
        if self._begun.exists():
            self._carry_out()
        if self._restoring.exists():
            self._put_back()

    def take(self, entries: Iterable[Entry], name: str) -> None:
        """Take things away, and drop for good what the prune before took.

        Args:
            entries: lines of the plan; those of records in the order of their numbers.
            name: ASCII; tells these things from any others.
        """
        before = _head(self._plan)["prune"] if self._plan.exists() else None
        identity = hashlib.sha256(f"{before}\n{name}".encode()).hexdigest()[:16]
        head = {"prune": identity, "replaces": before}
        publish_lines(self._begun, map(dump, itertools.chain([head], entries)))
        self._carry_out()

    def restore(self) -> int:
        """Put everything back; how many things. See `latentkit.upkeep.prune.restore`."""
        if self._restoring.exists():
            return self._put_back()
        self.finish()
        if not self._plan.exists():
            return 0
        self._refuse_conflicts()
        move_many([(self._plan, self._restoring)])
        return self._put_back()

    def texts(
        self, records: Set[str], done: Mapping[str, Set[str]], quarantined: Set[str]
    ) -> Iterator[Entry]:
        """The plan's lines for the records and ledger lines of these keys, as they are now."""
        for number, key, raw in numbered_records(self._records):
            if key in records:
                yield {"kind": "record", "number": number, "key": key, "line": _text(raw)}
        for encoder, keys in done.items():
            for key, raw in done_lines(self._root, encoder):
                if key in keys:
                    yield {"kind": "done", "encoder": encoder, "key": key, "line": _text(raw)}
        for key, raw in quarantine_lines(self._root):
            if key in quarantined:
                yield {"kind": "quarantine", "key": key, "line": _text(raw)}

    def _carry_out(self) -> None:
        plan = self._begun
        if (before := _head(plan)["replaces"]) is not None:
            self._remove(before)
        if records := _keys(plan, "record"):
            drop_records(self._records, records[""])
        for encoder, keys in _keys(plan, "done").items():
            forget_done(self._root, encoder, keys)
        if quarantined := _keys(plan, "quarantine"):
            forget_quarantined(self._root, quarantined[""])
        # What lies in the trash was moved before a kill: at its old place is something newer.
        move_many((place, trash) for place, trash in self._moves(plan) if not os.path.lexists(trash))
        move_many([(plan, self._plan)])

    def _put_back(self) -> int:
        plan = self._restoring
        move_many((trash, place) for place, trash in reversed(list(self._moves(plan))))
        there = {key for key, _ in quarantine_lines(self._root)}
        if lines := [_bytes(e["line"]) for e in _lines(plan, "quarantine") if e["key"] not in there]:
            remember_quarantined(self._root, lines)
        for encoder in _keys(plan, "done"):
            there = {key for key, _ in done_lines(self._root, encoder)}
            entries = (e for e in _lines(plan, "done") if e["encoder"] == encoder)
            if lines := [_bytes(e["line"]) for e in entries if e["key"] not in there]:
                remember_done(self._root, encoder, lines)
        if _keys(plan, "record"):
            there = {key for _, key, _ in numbered_records(self._records) if key is not None}
            removed = (e for e in _lines(plan, "record") if e["key"] not in there)
            insert_records(self._records, ((e["number"], _bytes(e["line"])) for e in removed))
        count = sum(1 for _ in _lines(plan))
        self._remove(_head(plan)["prune"])
        remove_many([plan])
        return count

    def _refuse_conflicts(self) -> None:
        plan = self._plan
        found = [
            printable(place)
            for place, trash in self._moves(plan)
            if os.path.lexists(place) and os.path.lexists(trash)
        ]
        records = _keys(plan, "record").get("", set())
        found += [f"record {key}" for _, key, _ in numbered_records(self._records) if key in records]
        for encoder, keys in _keys(plan, "done").items():
            found += [f"done {encoder} {key}" for key, _ in done_lines(self._root, encoder) if key in keys]
        if found:
            more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
            raise LatentkitError(
                f"nothing was restored: {', '.join(found[:_SHOWN])}{more} came since the prune; keep what "
                "came, or take it away and restore again"
            )

    def _moves(self, plan: Path) -> Iterator[tuple[Path, Path]]:
        """(place, trash) of each file and link, as listed."""
        identity = _head(plan)["prune"]
        sites = self._sites()
        for entry in _lines(plan):
            if entry["kind"] == "array":
                folder, inside = self._root / entry["folder"], f"arrays/{entry['folder']}"
            elif entry["kind"] not in ("link", "raw"):
                continue
            elif self._library is None:
                raise LatentkitError(
                    f"{plan} lists links of a photo library: give the dataset=crawlr that they belong to"
                )
            else:
                folder = self._library.root if entry["kind"] == "link" else self._library.raw
                inside = entry["kind"]
            yield folder / entry["name"], sites.get(folder, self._folder) / identity / inside / entry["name"]

    def _sites(self) -> dict[Path, Path]:
        """Folder whose things may be moved -> where to: its home, when that is on the same file system."""
        homes = dict.fromkeys(self._store.array_folders().values(), self._root)
        if self._library is not None:
            homes |= dict.fromkeys((self._library.root, self._library.raw), self._library.home)
        return {folder: hidden_folder(folder, home) / "pruned" for folder, home in homes.items()}

    def _remove(self, identity: str) -> None:
        """Remove for good what a prune took."""
        for site in sorted({self._folder, *self._sites().values()}):
            remove_tree(site / identity)


def _head(plan: Path) -> dict[str, Any]:
    with plan.open("rb") as file:
        head: dict[str, Any] = json.loads(file.readline())
    return head


def _lines(plan: Path, kind: str | None = None) -> Iterator[Entry]:
    with plan.open("rb") as file:
        next(file)
        for line in file:
            entry = json.loads(line)
            if kind is None or entry["kind"] == kind:
                yield entry


def _keys(plan: Path, kind: str) -> dict[str, set[str]]:
    """Encoder -> keys of the removed lines of its done ledger; an empty name for the quarantine."""
    keys: dict[str, set[str]] = {}
    for entry in _lines(plan, kind):
        keys.setdefault(entry.get("encoder", ""), set()).add(entry["key"])
    return keys


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
