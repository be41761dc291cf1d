"""Pruning: what has no picture any more leaves the outputs, and can be put back.

What goes, and how a line of the listing names it:

==============  =====================================================  ===========================
kind            what                                                   line
==============  =====================================================  ===========================
``link``        a link of the photo library that leads to nothing      ``link data/approved/a.jpg``
``raw``         the file of a withdrawn photo                          ``raw data/raw/a``
``record``      a record without a picture                             ``record a``
``done``        a line of a done ledger without a picture              ``done dinov3 a``
``quarantine``  a line of the quarantine ledger without a picture      ``quarantine a``
``array``       an array without a picture, in any output's folder     ``array data/derived/dinov3/a.npy``
==============  =====================================================  ===========================

Nothing is deleted: `latentkit.upkeep.trash` says where it goes and how it comes back.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.readable import readable_count
from latentkit.sources.files import printable
from latentkit.sources.library import Library, Survey
from latentkit.sources.source import Source
from latentkit.stores.ledger import encoders_begun, read_done
from latentkit.stores.npy import NpyStore, arrays_below
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.records import numbered_records
from latentkit.upkeep.plan_file import Entry
from latentkit.upkeep.trash import Trash

_log = logging.getLogger(__name__)


class Share(NamedTuple):
    """How many things of one kind go, of how many that are there."""

    kind: str
    going: int
    there: int


@dataclass(frozen=True)
class PrunePlan:
    """Everything that a prune removes; nothing is touched yet.

    Attributes:
        store: the outputs.
        library: the photo library; None for another collection.
        links, raw: names in the library's `root` and `raw`.
        records: ids of the records, one for each line.
        done: encoder -> keys of the lines of its ledger.
        quarantined: keys, one for each line of the quarantine ledger.
        arrays: folder under the store's root -> keys.
        shares: for links, raw files, records and the arrays of each folder.
    """

    store: NpyStore
    library: Library | None
    links: list[str]
    raw: list[str]
    records: list[str]
    done: dict[str, list[str]]
    quarantined: list[str]
    arrays: dict[str, list[str]]
    shares: list[Share]

    def __bool__(self) -> bool:
        """Whether anything goes."""
        return bool(self.counts())

    def counts(self) -> dict[str, int]:
        """Kind -> how many go, of the kinds that lose any."""
        counts = {
            "link": len(self.links),
            "raw file": len(self.raw),
            "record": len(self.records),
            "ledger line": sum(map(len, self.done.values())) + len(self.quarantined),
            "array": sum(map(len, self.arrays.values())),
        }
        return {kind: count for kind, count in counts.items() if count}

    def words(self) -> str:
        """The counts for people, ``2 links, 1 array``; empty when nothing goes."""
        return ", ".join(readable_count(count, kind) for kind, count in self.counts().items())

    def lines(self) -> Iterator[str]:
        """A line for each thing that goes, as the module's table shows; control characters as ``\\xNN``."""
        if self.library is not None:
            yield from (f"link {printable(self.library.root / name)}" for name in self.links)
            yield from (f"raw {printable(self.library.raw / name)}" for name in self.raw)
        yield from (f"record {_printable_key(key)}" for key in self.records)
        for encoder, keys in self.done.items():
            yield from (f"done {encoder} {_printable_key(key)}" for key in keys)
        yield from (f"quarantine {_printable_key(key)}" for key in self.quarantined)
        for folder, keys in self.arrays.items():
            yield from (f"array {printable(Path(self.store.root, folder, key))}.npy" for key in keys)

    def check(self, max_share: float) -> None:
        """Hold every kind against the share that may go.

        Raises:
            LatentkitError: one kind would lose more: which, how many, and how to allow it.
        """
        over = [share for share in self.shares if share.going > max_share * share.there]
        if over:
            words = [f"{share.going:,} of {share.there:,} {share.kind}" for share in over]
            needed = max(math.ceil(1000 * share.going / share.there) / 1000 for share in over)
            raise LatentkitError(
                f"this would remove {', '.join(words)}, over max_share={max_share:g}: nothing was touched; "
                f"see what with dry_run=true, allow it with max_share={needed:g}"
            )


def plan_prune(store: NpyStore, pictures: Library | Source, withdrawn: Set[str] = frozenset()) -> PrunePlan:
    """Compare the outputs with the pictures; changes nothing.

    Args:
        store: the outputs.
        pictures: the photo library, whose broken links go too, or any other collection.
        withdrawn: keys that a complete listing no longer has: their links, raw files, and all made of them.

    Raises:
        UsageError: the library's folder of links does not exist.
    """
    library = pictures if isinstance(pictures, Library) else None
    found = _survey(pictures, withdrawn)
    root, keys = Path(store.root), found.keys
    records = {key for _, key, _ in numbered_records(root / store.records) if key is not None}
    orphaned = sorted(records - keys)
    shares = [
        Share("links", len(found.links), found.there.get("links", 0)),
        Share("raw files", len(found.raw), found.there.get("raw", 0)),
        Share("records", len(orphaned), len(records)),
    ]
    arrays: dict[str, list[str]] = {}
    for name, folder in store.array_folders().items():
        there = [key for key, _ in arrays_below(folder)]
        if orphans := sorted(key for key in there if key not in keys):
            arrays[name] = orphans
            shares.append(Share(f"arrays in {folder}", len(orphans), len(there)))
    done = {name: sorted(read_done(root, name).keys() - keys) for name in encoders_begun(root)}
    return PrunePlan(
        store=store,
        library=library,
        links=found.links,
        raw=found.raw,
        records=orphaned,
        done={name: lines for name, lines in done.items() if lines},
        quarantined=sorted(Quarantine.read(root).keys() - keys),
        arrays=arrays,
        shares=shares,
    )


def check_max_share(max_share: float) -> None:
    """Raise UsageError unless it is a share, from 0 to 1."""
    if not 0 <= max_share <= 1:
        raise UsageError(f"max_share={max_share:g}: a share, from 0 to 1")


def prune(
    store: NpyStore,
    pictures: Library | Source,
    *,
    withdrawn: Set[str] = frozenset(),
    max_share: float = 0.2,
    dry_run: bool = False,
    say: Callable[[str], object] | None = None,
) -> PrunePlan:
    """Plan, check and carry out; or else finish what was stopped.

    A restore that was stopped is finished first. After a prune that was stopped only that is finished, as far
    as what it planned is unchanged and its picture did not come back: so that it can be restored.

    The caller holds an `OutputLock` on the store's root and, for a library, on its `home`; not for a dry run.

    Args:
        store, pictures, withdrawn: as for `plan_prune`.
        max_share: of the links, the raw files, the records, or the arrays of one folder that may go; 0 to 1.
        dry_run: plan and check only; nothing is touched.
        say: takes each line of `PrunePlan.lines` before anything of that plan is touched; in a dry run also
            of a plan that is refused.

    Returns:
        What was removed, or would be. When that is nothing, the last prune can still be restored.

    Raises:
        UsageError: the library's folder of links does not exist, or ``max_share`` is no share.
        LatentkitError: a kind would lose more than ``max_share``, and nothing was touched; a restore that was
            stopped is finished but for things in whose place something newer is; or as `publish`.
    """
    check_max_share(max_share)
    trash = Trash(store, pictures if isinstance(pictures, Library) else None)
    if not dry_run:
        store.repair()
        trash.finish_restore()
        if trash.unfinished and (finished := _finish(store, pictures, withdrawn, trash, say)):
            return finished
    elif trash.unfinished:
        raise LatentkitError(
            "a prune or a restore was stopped halfway: prune without dry_run=true to finish it"
        )
    plan = plan_prune(store, pictures, withdrawn)
    if not dry_run:
        plan.check(max_share)
    if say is not None:
        for line in plan.lines():
            say(line)
    if dry_run:
        plan.check(max_share)
    elif plan:
        names = [plan.links, plan.raw, plan.records, plan.done, plan.quarantined, plan.arrays]
        trash.take(_entries(plan, trash), json.dumps(names))
    return plan


def _finish(
    store: NpyStore,
    pictures: Library | Source,
    withdrawn: Set[str],
    trash: Trash,
    say: Callable[[str], object] | None,
) -> PrunePlan:
    """Finish a prune that was stopped; what it took in all."""
    entries = trash.narrow(_survey(pictures, withdrawn))
    done: dict[str, list[str]] = {}
    arrays: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {"link": [], "raw": [], "record": [], "quarantine": []}
    for entry in entries:
        match entry["kind"]:
            case "done":
                done.setdefault(entry["encoder"], []).append(entry["key"])
            case "array":
                arrays.setdefault(entry["folder"], []).append(entry["name"].removesuffix(".npy"))
            case kind:
                names[kind].append(entry["name"] if kind in {"link", "raw"} else entry["key"])
    plan = PrunePlan(
        store=store,
        library=pictures if isinstance(pictures, Library) else None,
        links=names["link"],
        raw=names["raw"],
        records=names["record"],
        done=done,
        quarantined=names["quarantine"],
        arrays=arrays,
        shares=[],
    )
    if say is not None:
        for line in plan.lines():
            say(line)
    trash.finish_prune()
    if plan:
        _log.warning("finished the prune that was stopped, no more: prune again for what is to go since")
    return plan


def _survey(pictures: Library | Source, withdrawn: Set[str]) -> Survey:
    return pictures.survey(withdrawn) if isinstance(pictures, Library) else Survey(set(pictures.keys()))


def restore(store: NpyStore, library: Library | None) -> int:
    """Put back everything that the last prune took: files and links as they were, records and ledger lines.

    The caller holds the locks, as for `prune`. A prune that was stopped is put back as well, not finished.

    Returns:
        How many things came back; 0 when there is nothing to restore.

    Raises:
        LatentkitError: something has come to the place of one of them since: which. Nothing was touched;
            after a prune or a restore that was stopped, all others were put back.
    """
    store.repair()
    return Trash(store, library).restore()


def _entries(plan: PrunePlan, trash: Trash) -> Iterator[Entry]:
    done = {encoder: set(keys) for encoder, keys in plan.done.items()}
    yield from trash.texts(set(plan.records), done, set(plan.quarantined))
    for folder, keys in plan.arrays.items():
        yield from ({"kind": "array", "folder": folder, "name": f"{key}.npy"} for key in keys)
    yield from ({"kind": "link", "name": name} for name in plan.links)
    yield from ({"kind": "raw", "name": name} for name in plan.raw)


def _printable_key(key: str) -> str:
    """Keys come out of JSON, where a text need not be one that can be written as UTF-8."""
    return printable(key.encode("utf-8", "backslashreplace").decode())
