"""Where pruned things lie until the next prune, and how they come back.

``<root>/.latentkit/pruned/plan.jsonl`` lists the last prune: a head ``{"prune", "replaces"}`` (ids of this
prune and the one before), then a line a thing: records and ledger lines with their text, files and links by
their name and what tells whether they changed. Files and links are renamed to
``.latentkit/pruned/<id>/<folder>/<name>`` under the output's root, or the library's home; in the folder
itself when that is another file system.

The plan is ``plan.begun.jsonl`` until all is gone, and ``plan.restoring.jsonl`` while things come back, so
that whoever comes after a kill knows what to finish. Every step can be repeated. Days may lie between: what
came or came back since the kill is not taken by the old plan, and nothing is put over it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from latentkit.errors import LatentkitError
from latentkit.sources.files import printable
from latentkit.sources.library import Library, Survey
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
from latentkit.upkeep.plan_file import Entry, as_bytes, as_text, head_of, keys_of, lines_of, name_of, state_of

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

    def narrow(self, found: Survey) -> list[Entry]:
        """Leave in a killed prune's plan what it took and what is to go still; these lines, none without one.

        To go still is what is there as it was planned, and whose picture has not come back.

        Args:
            found: the pictures as they are now.
        """
        plan = self._begun
        if not plan.exists():
            return []
        head, entries = head_of(plan), list(lines_of(plan))
        planned: dict[tuple[str, ...], set[str]] = {}
        for entry in entries:
            if "line" in entry:
                planned.setdefault(name_of(entry), set()).add(entry["line"])
        records, done, quarantined = (keys_of(plan, kind) for kind in ("record", "done", "quarantine"))
        stay = {
            name_of(entry)
            for entry in self.texts(records.get("", set()), done, quarantined.get("", set()))
            if entry["key"] in found.keys or entry["line"] not in planned[name_of(entry)]
        }
        links = set(found.links)
        for entry, place, trash in self._moves(plan):
            if entry["kind"] == "link":
                going = entry["name"] in links
            elif entry["kind"] == "raw":
                going = entry["name"] not in found.used
            else:
                going = entry["name"].removesuffix(".npy") not in found.keys
            if not os.path.lexists(trash) and not (going and entry["is"] == state_of(place)):
                stay.add(name_of(entry))
        kept = [entry for entry in entries if name_of(entry) not in stay]
        if len(kept) < len(entries):
            publish_lines(plan, map(dump, [head, *kept]))
        return kept

    def finish_prune(self) -> None:
        """Carry out what `narrow` left in the plan of a killed prune."""
        if self._begun.exists():
            self._carry_out()

    def finish_restore(self) -> None:
        """Finish a killed restore. Raises LatentkitError as `restore`, with all put back that could be."""
        if self._restoring.exists():
            self._put_back()

    def take(self, entries: Iterable[Entry], name: str) -> None:
        """Take things away, and drop for good what the prune before took.

        Args:
            entries: lines of the plan; those of records in the order of their numbers.
            name: ASCII; tells these things from any others.
        """
        before = head_of(self._plan)["prune"] if self._plan.exists() else None
        identity = hashlib.sha256(f"{before}\n{name}".encode()).hexdigest()[:16]
        head = {"prune": identity, "replaces": before}
        seen = (
            entry if where is None else entry | {"is": state_of(where[0])}
            for entry, where in self._located(entries, identity)
        )
        publish_lines(self._begun, map(dump, itertools.chain([head], seen)))
        self._carry_out()

    def restore(self) -> int:
        """Put everything back; how many things. See `latentkit.upkeep.prune.restore`."""
        if self._begun.exists():
            self._drop_replaced()
            remove_many([self._plan])
            move_many([(self._begun, self._restoring)])
        elif not self._restoring.exists():
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
                yield {"kind": "record", "number": number, "key": key, "line": as_text(raw)}
        for encoder, keys in done.items():
            for key, raw in done_lines(self._root, encoder):
                if key in keys:
                    yield {"kind": "done", "encoder": encoder, "key": key, "line": as_text(raw)}
        for key, raw in quarantine_lines(self._root):
            if key in quarantined:
                yield {"kind": "quarantine", "key": key, "line": as_text(raw)}

    def _carry_out(self) -> None:
        plan = self._begun
        self._drop_replaced()
        if records := keys_of(plan, "record"):
            drop_records(self._records, records[""])
        for encoder, keys in keys_of(plan, "done").items():
            forget_done(self._root, encoder, keys)
        if quarantined := keys_of(plan, "quarantine"):
            forget_quarantined(self._root, quarantined[""])
        # What lies in the trash was moved before a kill: at its old place is something newer.
        move_many((place, trash) for _, place, trash in self._moves(plan) if not os.path.lexists(trash))
        move_many([(plan, self._plan)])

    def _drop_replaced(self) -> None:
        if (before := head_of(self._begun)["replaces"]) is not None:
            self._remove(before)

    def _put_back(self) -> int:
        plan = self._restoring
        moves = list(self._moves(plan))
        # What has come to a place since a kill stays there, and the old in the trash.
        move_many((trash, place) for _, place, trash in reversed(moves) if not os.path.lexists(place))
        there = {key for key, _ in quarantine_lines(self._root)}
        if lines := [as_bytes(e["line"]) for e in lines_of(plan, "quarantine") if e["key"] not in there]:
            remember_quarantined(self._root, lines)
        for encoder in keys_of(plan, "done"):
            there = {key for key, _ in done_lines(self._root, encoder)}
            entries = (e for e in lines_of(plan, "done") if e["encoder"] == encoder)
            if lines := [as_bytes(e["line"]) for e in entries if e["key"] not in there]:
                remember_done(self._root, encoder, lines)
        if keys_of(plan, "record"):
            there = {key for _, key, _ in numbered_records(self._records) if key is not None}
            removed = (e for e in lines_of(plan, "record") if e["key"] not in there)
            insert_records(self._records, ((e["number"], as_bytes(e["line"])) for e in removed))
        if left := [(entry, place) for entry, place, trash in moves if os.path.lexists(trash)]:
            publish_lines(self._plan, map(dump, [head_of(plan), *(entry for entry, _ in left)]))
            remove_many([plan])
            places = [printable(place) for _, place in left]
            raise LatentkitError(
                f"restored all but {_shown(places)}: newer ones came since it was stopped, and stay; the old "
                f"are in {self._folder} until the next prune that removes any"
            )
        count = sum(1 for _ in lines_of(plan))
        self._remove(head_of(plan)["prune"])
        remove_many([plan])
        return count

    def _refuse_conflicts(self) -> None:
        plan = self._plan
        found = [
            printable(place)
            for _, place, trash in self._moves(plan)
            if os.path.lexists(place) and os.path.lexists(trash)
        ]
        records = keys_of(plan, "record").get("", set())
        found += [f"record {key}" for _, key, _ in numbered_records(self._records) if key in records]
        for encoder, keys in keys_of(plan, "done").items():
            found += [f"done {encoder} {key}" for key, _ in done_lines(self._root, encoder) if key in keys]
        if found:
            raise LatentkitError(
                f"nothing was restored: {_shown(found)} came since the prune; keep what came, or take it "
                "away and restore again"
            )

    def _moves(self, plan: Path) -> Iterator[tuple[Entry, Path, Path]]:
        """(line, place, trash) of each file and link of a plan, as listed."""
        for entry, where in self._located(lines_of(plan), head_of(plan)["prune"]):
            if where is not None:
                yield entry, *where

    def _located(
        self, entries: Iterable[Entry], identity: str
    ) -> Iterator[tuple[Entry, tuple[Path, Path] | None]]:
        """Each line with its (place, trash), None unless it is of a file or link."""
        sites = self._sites()
        for entry in entries:
            if entry["kind"] == "array":
                folder, inside = self._root / entry["folder"], f"arrays/{entry['folder']}"
            elif entry["kind"] not in ("link", "raw"):
                yield entry, None
                continue
            elif self._library is None:
                raise LatentkitError(
                    f"{self._folder} has links of a photo library: give the dataset=crawlr they belong to"
                )
            else:
                folder = self._library.root if entry["kind"] == "link" else self._library.raw
                inside = entry["kind"]
            trash = sites.get(folder, self._folder) / identity / inside / entry["name"]
            yield entry, (folder / entry["name"], trash)

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


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
