"""Where pruned things lie until the next prune, and how they come back.

``<root>/.latentkit/pruned/plan.jsonl`` lists the last prune: a head ``{"prune", "replaces"}`` (ids of this
prune and the one before), then a line for each thing: records and ledger lines with their text, files and
links by name. Files and links are renamed to ``.latentkit/pruned/<id>/<folder>/<name>`` under the output's
root, or the library's home; in the folder itself when that is on another file system.

The plan is called ``plan.begun.jsonl`` until everything is gone, and ``plan.restoring.jsonl`` while things
come back. Whoever finds one of these after a kill puts everything back: each step can be repeated, and
nothing is put over what came since. What the prune before took is removed last.
"""

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentkit.errors import LatentkitError
from latentkit.sources.files import printable
from latentkit.sources.library import Library
from latentkit.stores.ledger import Ledger, done_ledger, dump, encoders_done, publish_lines
from latentkit.stores.npy import NpyStore
from latentkit.stores.quarantine import quarantine_ledger
from latentkit.stores.records import Records
from latentkit.stores.storage import move_many, remove_many, remove_tree
from latentkit.stores.store import LEDGERS, hidden_folder

_log = logging.getLogger(__name__)
_SHOWN = 3
_FILES = ("link", "raw", "array")
_Entry = dict[str, Any]


class Trash:
    """What the last prune of an output took. All but `unfinished` is for the holder of the locks.

    Args:
        store: the outputs.
        library: the photo library; None for another collection.
    """

    def __init__(self, store: NpyStore, library: Library | None) -> None:
        self._store, self._library = store, library
        self._root = Path(store.root)
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
            self._put_back(self._begun, undo=True)
            _log.warning("undid the prune that was stopped")
        elif self._restoring.exists():
            self._put_back(self._restoring)
        elif self._plan.exists():
            self._remove(_read(self._plan)[0]["replaces"])

    def take(self, things: Mapping[tuple[str, str], Sequence[str]]) -> None:
        """Take `PrunePlan.things` away, then remove for good what the prune before took."""
        before = _read(self._plan)[0]["prune"] if self._plan.exists() else None
        identity = hashlib.sha256(f"{before}\n{json.dumps(list(things.items()))}".encode()).hexdigest()[:16]
        head = {"prune": identity, "replaces": before}
        publish_lines(self._begun, map(dump, itertools.chain([head], self._entries(things))))
        for (kind, place), names in things.items():
            if kind not in _FILES:
                self._file(kind, place).forget(set(names))
        move_many((place, trash) for _, place, trash in self._moves(*_read(self._begun)))
        move_many([(self._begun, self._plan)])
        self._remove(before)

    def restore(self) -> int:
        """Put everything back; how many things. See `latentkit.upkeep.prune.restore`."""
        if not self.unfinished:
            if not self._plan.exists():
                return 0
            self._refuse_conflicts()
            self._remove(_read(self._plan)[0]["replaces"])
            move_many([(self._plan, self._restoring)])
        return self._put_back(self._begun if self._begun.exists() else self._restoring)

    def _entries(self, things: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[_Entry]:
        """The plan's lines."""
        for (kind, place), names in things.items():
            if kind in _FILES:
                yield from ({"kind": kind, "folder": place, "name": name} for name in names)
                continue
            going = set(names)
            for number, key, raw in self._file(kind, place).lines():
                if key in going:
                    line = raw.decode("utf-8", "surrogateescape")
                    yield {"kind": kind, "encoder": place, "key": key, "number": number, "line": line}

    def _file(self, kind: str, encoder: str) -> Ledger[Any] | Records:
        """The file whose lines are things of a kind."""
        if kind == "record":
            return Records(self._root / self._store.records)
        return done_ledger(self._root, encoder) if kind == "done" else quarantine_ledger(self._root)

    def _keys(self, kind: str, encoder: str) -> set[str | None]:
        return {key for _, key, _ in self._file(kind, encoder).lines()}

    def _there(self, entries: Sequence[_Entry]) -> dict[tuple[str, str], set[str | None]]:
        """File of lines -> the keys that are in it, of those that a plan took lines from."""
        files = {file for file in map(_file_of, entries) if file[0] not in _FILES}
        return {file: self._keys(*file) for file in files}

    def _put_back(self, plan: Path, *, undo: bool = False) -> int:
        """Put back what nothing newer is in the place of; how many things the plan has.

        Raises:
            LatentkitError: unless to ``undo``: something newer is. Then the old stay, as the last prune.
        """
        head, entries = _read(plan)
        moves = list(self._moves(head, entries))
        move_many((trash, place) for _, place, trash in reversed(moves) if not os.path.lexists(place))
        there = self._there(entries)
        # What is in a ledger now was encoded since: it is no longer quarantined.
        done = {key for encoder in encoders_done(self._root) for key in self._keys("done", encoder)}
        for file in sorted(there, key=lambda file: ("quarantine", "done", "record").index(file[0])):
            stays = there[file] | done if file[0] == "quarantine" else there[file]
            back = [
                (entry.get("number", 0), entry["line"].encode("utf-8", "surrogateescape"))
                for entry in entries
                if _file_of(entry) == file and entry["key"] not in stays
            ]
            if back:
                self._file(*file).remember(back)
        left = [(entry, place) for entry, place, trash in moves if os.path.lexists(trash)]
        if left:
            publish_lines(self._plan, map(dump, [head, *(entry for entry, _ in left)]))
        self._remove(head["replaces" if left else "prune"])
        remove_many([plan])
        if left and not undo:
            raise LatentkitError(
                f"restored all but {_shown([printable(place) for _, place in left])}: newer ones came since "
                f"it was stopped, and stay; the old are in {self._folder} until the next prune removes any"
            )
        return len(entries)

    def _refuse_conflicts(self) -> None:
        """Raise LatentkitError when something of the last prune is there again."""
        head, entries = _read(self._plan)
        found = [
            printable(place)
            for _, place, trash in self._moves(head, entries)
            if os.path.lexists(place) and os.path.lexists(trash)
        ]
        there = self._there(entries)
        for entry in entries:
            file = _file_of(entry)
            if file[0] in ("record", "done") and entry["key"] in there[file]:
                found.append(" ".join(filter(None, (*file, entry["key"]))))
        if found:
            raise LatentkitError(
                f"nothing was restored: {_shown(found)} came since the prune; keep what came, or take it "
                "away and restore again"
            )

    def _moves(self, head: _Entry, entries: Sequence[_Entry]) -> Iterator[tuple[_Entry, Path, Path]]:
        """(line, place, trash) of each file and link of a plan, as listed."""
        sites = self._sites()
        for entry in (entry for entry in entries if entry["kind"] in _FILES):
            kind = entry["kind"]
            if kind == "array":
                folder, inside = self._root / entry["folder"], f"arrays/{entry['folder']}"
            elif self._library is None:
                raise LatentkitError(
                    f"{self._folder} has links of a photo library: give the dataset=crawlr they belong to"
                )
            else:
                folder, inside = self._library.root if kind == "link" else self._library.raw, kind
            site = sites.get(folder, self._folder)
            yield entry, folder / entry["name"], site / head["prune"] / inside / entry["name"]

    def _sites(self) -> dict[Path, Path]:
        """Folder whose things may be moved -> where to: its home, when that is on the same file system."""
        homes = dict.fromkeys(self._store.array_folders(), self._root)
        if self._library is not None:
            homes |= dict.fromkeys((self._library.root, self._library.raw), self._library.home)
        return {folder: hidden_folder(folder, home) / "pruned" for folder, home in homes.items()}

    def _remove(self, identity: str | None) -> None:
        """Remove for good what a prune took."""
        if identity is not None:
            for site in sorted({self._folder, *self._sites().values()}):
                remove_tree(site / identity)


def _read(plan: Path) -> tuple[_Entry, list[_Entry]]:
    """The head, and a line for each thing."""
    head, *entries = map(json.loads, plan.read_bytes().splitlines())
    return head, entries


def _file_of(entry: _Entry) -> tuple[str, str]:
    """(kind, encoder) of a line of the plan."""
    return entry["kind"], entry.get("encoder", "")


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
