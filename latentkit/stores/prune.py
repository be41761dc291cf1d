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

Nothing is deleted: `latentkit.stores.trash` says where it goes and how it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latentkit.errors import LatentkitError
from latentkit.readable import readable_count
from latentkit.sources.files import printable
from latentkit.sources.item import Source
from latentkit.sources.library import Library, Survey
from latentkit.stores.npy import NpyStore, arrays_below
from latentkit.stores.trash import Trash


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

    def __len__(self) -> int:
        """How many things go."""
        raise NotImplementedError

    def lines(self) -> Iterator[str]:
        """A line for each thing that goes, as the module's table shows; control characters as ``\\xNN``."""
        raise NotImplementedError

    def check(self, max_share: float) -> None:
        """Hold every kind against the share that may go.

        Raises:
            LatentkitError: one kind would lose more: which, how many, and how to allow it.
        """
        raise NotImplementedError


def plan_prune(store: NpyStore, pictures: Library | Source, withdrawn: Set[str] = frozenset()) -> PrunePlan:
    """Compare the outputs with the pictures; changes nothing.

    Args:
        store: the outputs.
        pictures: the photo library, whose broken links go too, or any other collection.
        withdrawn: keys that a complete listing no longer has: their links, raw files, and all made of them.

    Raises:
        UsageError: the library's folder of links does not exist.
    """
    raise NotImplementedError


def prune(
    store: NpyStore,
    pictures: Library | Source,
    *,
    withdrawn: Set[str] = frozenset(),
    max_share: float = 0.2,
    dry_run: bool = False,
    say: Callable[[str], object],
) -> PrunePlan:
    """Finish what a killed prune or restore began, then plan, check and carry out.

    The caller holds an `OutputLock` on the store's root and, for a library, on its `home`; not for a dry run.

    Args:
        store, pictures, withdrawn: as for `plan_prune`.
        max_share: of the links, the raw files, the records, or the arrays of one folder that may go; 0 to 1.
        dry_run: plan and check only; nothing is touched.
        say: takes each line of `PrunePlan.lines`, before anything of that plan is touched.

    Returns:
        What was removed, or would be; empty when there is nothing to remove, and then the last prune can
        still be restored.

    Raises:
        UsageError: the library's folder of links does not exist.
        LatentkitError: a kind would lose more than ``max_share``: nothing was touched. Or the disk is full ...
    """
    raise NotImplementedError


def restore(store: NpyStore, library: Library | None) -> int:
    """Put back everything that the last prune took: files and links as they were, records and ledger lines.

    The caller holds the locks, as for `prune`.

    Returns:
        How many things came back; 0 when there is nothing to restore.

    Raises:
        LatentkitError: something has come to the place of one of them since: which. Nothing was touched.
    """
    raise NotImplementedError
