"""Where pruned things lie until the next prune, and how they come back.

``<root>/.latentkit/pruned/plan.jsonl`` lists the last prune: a head ``{"prune", "replaces"}`` (ids of this
prune and the one before), then a line for each thing: records and ledger lines with their text, files and
links by name. Files and links are renamed to ``.latentkit/pruned/<id>/<folder>/<name>`` under the output's
root, or the library's home; in the folder itself when that is on another file system.

The plan is called ``plan.begun.jsonl`` until everything is gone, and ``plan.restoring.jsonl`` while things
come back. Whoever finds one of these after a kill puts everything back: each step can be repeated, and
nothing is put over what came since. What the prune before took is removed last.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latentkit.errors import LatentkitError
from latentkit.sources.files import printable
from latentkit.sources.library import Library
from latentkit.stores.ledger import Ledger, done_ledger, dump, encoders_done, publish_lines
from latentkit.stores.npy import NpyStore
from latentkit.stores.quarantine import quarantine_ledger
from latentkit.stores.records import drop_records, insert_records, numbered_records
from latentkit.stores.storage import move_many, remove_many, remove_tree
from latentkit.stores.store import LEDGERS, hidden_folder

_log = logging.getLogger(__name__)
_SHOWN = 3
_FILES = ("link", "raw", "array")


class Thing(NamedTuple):
    """Something that a prune takes.

    Attributes:
        kind: ``link``, ``raw``, ``record``, ``done``, ``quarantine`` or ``array``.
        place: an array's folder under the output's root, or the encoder of a done ledger; else empty.
        name: a file's name in its folder, or the key of a line.
    """

    kind: str
    place: str
    name: str


class Trash:
    """What the last prune of an output took. All but `unfinished` is for the holder of the locks.

    Args:
        store: the outputs.
        library: the photo library; None for another collection.
    """

    def __init__(self, store: NpyStore, library: Library | None) -> None:
        self._store, self._library = store, library
        self._root = Path(store.root)
        self._records = self._root / store.records
        self._folder = self._root / LEDGERS / "pruned"
        self._plan = self._folder / "plan.jsonl"
        self._begun = self._folder / "plan.begun.jsonl"
        self._restoring = self._folder / "plan.restoring.jsonl"

    @property
    def unfinished(self) -> bool:
        """Whether a prune or a restore was killed on its way."""
        return self._begun.exists() or self._restoring.exists()

    def settle(self) -> None:
        """Undo a prune that was stopped, finish a restore that was.

        Raises:
            LatentkitError: a restore left things in the trash in whose place something newer is.
        """
        if self._begun.exists():
            self._put_back(self._begun)
            _log.warning("undid the prune that was stopped")
        elif self._restoring.exists():
            self._refuse_left(self._put_back(self._restoring)[1])
        elif self._plan.exists():
            self._remove(_head(self._plan)["replaces"])

    def take(self, things: Sequence[Thing]) -> None:
        """Take things away, then remove for good what the prune before took."""
        before = _head(self._plan)["prune"] if self._plan.exists() else None
        identity = hashlib.sha256(f"{before}\n{json.dumps(things)}".encode()).hexdigest()[:16]
        names: dict[tuple[str, str], set[str]] = {}
        for kind, place, name in things:
            names.setdefault((kind, place), set()).add(name)
        head = {"prune": identity, "replaces": before}
        publish_lines(self._begun, map(dump, itertools.chain([head], self._entries(names))))
        for (kind, place), keys in names.items():
            if kind == "record":
                drop_records(self._records, keys)
            elif kind not in _FILES:
                self._ledger(kind, place).forget(keys)
        move_many((place, trash) for _, place, trash in self._moves(self._begun))
        move_many([(self._begun, self._plan)])
        self._remove(before)

    def restore(self) -> int:
        """Put everything back; how many things. See `latentkit.upkeep.prune.restore`."""
        if not self.unfinished:
            if not self._plan.exists():
                return 0
            self._refuse_conflicts()
            self._remove(_head(self._plan)["replaces"])
            move_many([(self._plan, self._restoring)])
        count, left = self._put_back(self._begun if self._begun.exists() else self._restoring)
        self._refuse_left(left)
        return count

    def _entries(self, names: dict[tuple[str, str], set[str]]) -> Iterator[dict[str, Any]]:
        """The plan's lines for things, named by kind and place."""
        for (kind, place), going in names.items():
            if kind in _FILES:
                yield from ({"kind": kind, "folder": place, "name": name} for name in sorted(going))
                continue
            for number, key, raw in self._lines(kind, place):
                if key in going:
                    line = raw.decode("utf-8", "surrogateescape")
                    yield {"kind": kind, "encoder": place, "key": key, "number": number, "line": line}

    def _lines(self, kind: str, place: str) -> Iterator[tuple[int, str | None, bytes]]:
        """(number, key, raw line) of every line of the records or a folded ledger."""
        if kind == "record":
            yield from numbered_records(self._records)
        else:
            lines = self._ledger(kind, place).lines()
            yield from ((number, *line) for number, line in enumerate(lines, 1))

    def _ledger(self, kind: str, encoder: str) -> Ledger[Any]:
        return done_ledger(self._root, encoder) if kind == "done" else quarantine_ledger(self._root)

    def _put_back(self, plan: Path) -> tuple[int, list[Path]]:
        """How many things came back; and where something newer is, whose old stays in the trash."""
        moves = list(self._moves(plan))
        move_many((trash, place) for _, place, trash in reversed(moves) if not os.path.lexists(place))
        lines = {(entry["kind"], entry.get("encoder", "")) for entry in _read(plan) if "line" in entry}
        for kind, encoder in sorted(lines, key=lambda of: ("quarantine", "done", "record").index(of[0])):
            there = {key for _, key, _ in self._lines(kind, encoder)}
            if kind == "quarantine":  # ledgers that list its key now: the picture came back and was encoded
                ledgers = [done_ledger(self._root, name) for name in encoders_done(self._root)]
                there |= {key for ledger in ledgers for key, _ in ledger.lines()}
            back = (
                (entry.get("number", 0), entry["line"].encode("utf-8", "surrogateescape"))
                for entry in _read(plan)
                if (entry["kind"], entry.get("encoder", "")) == (kind, encoder) and entry["key"] not in there
            )
            if kind == "record":
                insert_records(self._records, back)
            elif raw := [line for _, line in back]:
                self._ledger(kind, encoder).remember(raw)
        head, count = _head(plan), sum(1 for _ in _read(plan))
        left = [(entry, place) for entry, place, trash in moves if os.path.lexists(trash)]
        if left:
            publish_lines(self._plan, map(dump, [head, *(entry for entry, _ in left)]))
            self._remove(head["replaces"])
        else:
            self._remove(head["prune"])
        remove_many([plan])
        return count - len(left), [place for _, place in left]

    def _refuse_left(self, left: list[Path]) -> None:
        if left:
            raise LatentkitError(
                f"restored all but {_shown(map(printable, left))}: newer ones came since it was stopped, and "
                f"stay; the old are in {self._folder} until the next prune that removes any"
            )

    def _refuse_conflicts(self) -> None:
        """Raise LatentkitError when something of the last prune is there again."""
        found = [
            printable(place)
            for _, place, trash in self._moves(self._plan)
            if os.path.lexists(place) and os.path.lexists(trash)
        ]
        planned: dict[tuple[str, str], set[str]] = {}
        for entry in _read(self._plan):
            if entry["kind"] in ("record", "done"):
                planned.setdefault((entry["kind"], entry.get("encoder", "")), set()).add(entry["key"])
        for (kind, place), keys in planned.items():
            words = " ".join(filter(None, (kind, place)))
            found += [f"{words} {key}" for _, key, _ in self._lines(kind, place) if key in keys]
        if found:
            raise LatentkitError(
                f"nothing was restored: {_shown(found)} came since the prune; keep what came, or take it "
                "away and restore again"
            )

    def _moves(self, plan: Path) -> Iterator[tuple[dict[str, Any], Path, Path]]:
        """(line, place, trash) of each file and link of a plan, as listed."""
        identity, sites = _head(plan)["prune"], self._sites()
        for entry in _read(plan):
            kind, folder = entry["kind"], self._root
            if kind not in _FILES:
                continue
            if kind == "array":
                folder, inside = self._root / entry["folder"], f"arrays/{entry['folder']}"
            elif self._library is None:
                raise LatentkitError(
                    f"{self._folder} has links of a photo library: give the dataset=crawlr they belong to"
                )
            else:
                folder, inside = self._library.root if kind == "link" else self._library.raw, kind
            site = sites.get(folder, self._folder)
            yield entry, folder / entry["name"], site / identity / inside / entry["name"]

    def _sites(self) -> dict[Path, Path]:
        """Folder whose things may be moved -> where to: its home, when that is on the same file system."""
        homes = dict.fromkeys(self._store.array_folders().values(), self._root)
        if self._library is not None:
            homes |= dict.fromkeys((self._library.root, self._library.raw), self._library.home)
        return {folder: hidden_folder(folder, home) / "pruned" for folder, home in homes.items()}

    def _remove(self, identity: str | None) -> None:
        """Remove for good what a prune took."""
        if identity is not None:
            for site in sorted({self._folder, *self._sites().values()}):
                remove_tree(site / identity)


def _head(plan: Path) -> dict[str, Any]:
    with plan.open("rb") as file:
        head: dict[str, Any] = json.loads(file.readline())
    return head


def _read(plan: Path) -> Iterator[dict[str, Any]]:
    with plan.open("rb") as file:
        next(file)
        yield from map(json.loads, file)


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
