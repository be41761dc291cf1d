"""Pruning: what has no picture any more leaves the outputs, and can be put back.

What goes, and its line in the listing:

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

import math
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.readable import readable_count
from latentkit.sources.files import printable
from latentkit.sources.library import Library, Survey
from latentkit.sources.source import Source
from latentkit.stores.ledger import encoders_begun, read_done
from latentkit.stores.npy import NpyStore, arrays_below
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.records import numbered_records
from latentkit.upkeep.trash import Trash

_WORDS = {"raw": "raw file", "done": "ledger line", "quarantine": "ledger line"}
"""Kind -> what people call it, where that is another word."""


@dataclass(frozen=True)
class PrunePlan:
    """Everything that a prune removes; nothing is touched yet.

    Attributes:
        things: (kind, place) -> names of what goes, in the order of the listing. A place is an array's folder
            under the output's root, or the encoder of a done ledger; a name is a file's, or a line's key.
        shares: (how many go, how many there are) of links, raw files, records and the arrays of each folder.
        folders: of the things that are files, by kind: an array's place is below its kind's.
    """

    things: dict[tuple[str, str], list[str]]
    shares: dict[str, tuple[int, int]]
    folders: dict[str, Path]

    def __bool__(self) -> bool:
        """Whether anything goes."""
        return bool(self.things)

    def counts(self) -> dict[str, int]:
        """Kind -> how many go, of the kinds that lose any."""
        counts: Counter[str] = Counter()
        for (kind, _), names in self.things.items():
            counts[_WORDS.get(kind, kind)] += len(names)
        return dict(counts)

    def words(self) -> str:
        """The counts for people, ``2 links, 1 array``; empty when nothing goes."""
        return ", ".join(readable_count(count, kind) for kind, count in self.counts().items())

    def lines(self) -> Iterator[str]:
        """A line for each thing that goes, as the module's table shows; control characters as ``\\xNN``."""
        for (kind, place), names in self.things.items():
            for name in names:
                if kind in self.folders:
                    yield f"{kind} {printable(self.folders[kind] / place / name)}"
                else:  # keys come out of JSON, where a text need not be one that can be written as UTF-8
                    key = printable(name.encode("utf-8", "backslashreplace").decode())
                    yield " ".join(filter(None, (kind, place, key)))

    def check(self, max_share: float) -> None:
        """Hold every kind against the share that may go.

        Raises:
            LatentkitError: one kind would lose more: which, how many, and how to allow it.
        """
        over = {what: share for what, share in self.shares.items() if share[0] > max_share * share[1]}
        if over:
            words = [f"{going:,} of {there:,} {what}" for what, (going, there) in over.items()]
            needed = max(math.ceil(1000 * going / there) / 1000 for going, there in over.values())
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
    root, folders = Path(store.root), {"array": Path(store.root)}
    if isinstance(pictures, Library):
        folders |= {"link": pictures.root, "raw": pictures.raw}
        found = pictures.survey(withdrawn)
    else:
        found = Survey(set(pictures.keys()))
    things = {("link", ""): found.links, ("raw", ""): found.raw}
    shares = {
        "links": (len(found.links), found.there.get("links", 0)),
        "raw files": (len(found.raw), found.there.get("raw", 0)),
    }
    records = {key for _, key, _ in numbered_records(root / store.records) if key is not None}
    things["record", ""] = sorted(records - found.keys)
    shares["records"] = len(things["record", ""]), len(records)
    for encoder in encoders_begun(root):
        things["done", encoder] = sorted(read_done(root, encoder).keys() - found.keys)
    things["quarantine", ""] = sorted(Quarantine.read(root).keys() - found.keys)
    for folder in store.array_folders():
        name, there = str(folder.relative_to(root)), {key for key, _ in arrays_below(folder)}
        things["array", name] = [f"{key}.npy" for key in sorted(there - found.keys)]
        shares[f"arrays in {folder}"] = len(things["array", name]), len(there)
    return PrunePlan({what: names for what, names in things.items() if names}, shares, folders)


def prune(
    store: NpyStore,
    pictures: Library | Source,
    *,
    withdrawn: Set[str] = frozenset(),
    max_share: float = 0.2,
    dry_run: bool = False,
    say: Callable[[str], object] | None = None,
) -> PrunePlan:
    """Plan, check and carry out. What a stopped prune or restore left in the trash is put back first.

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
    if not 0 <= max_share <= 1:
        raise UsageError(f"max_share={max_share:g}: a share, from 0 to 1")
    trash = Trash(store, pictures if isinstance(pictures, Library) else None)
    if not dry_run:
        store.repair()
        trash.settle()
    elif trash.unfinished:
        raise LatentkitError("a prune or a restore was stopped halfway: prune without dry_run=true first")
    plan = plan_prune(store, pictures, withdrawn)
    if not dry_run:
        plan.check(max_share)
    if say is not None:
        for line in plan.lines():
            say(line)
    if dry_run:
        plan.check(max_share)
    elif plan:
        trash.take(plan.things)
    return plan


def restore(store: NpyStore, library: Library | None) -> int:
    """Put back everything that the last prune took: files and links as they were, records and ledger lines.

    The caller holds the locks, as for `prune`. A prune that was stopped is undone.

    Returns:
        How many things came back; 0 when there is nothing to restore.

    Raises:
        LatentkitError: something has come to the place of one of them since: which. Nothing was touched;
            after a prune or a restore that was stopped, all others were put back.
    """
    store.repair()
    return Trash(store, library).restore()
