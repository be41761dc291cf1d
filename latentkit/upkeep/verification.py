"""What can be wrong with an output and what mends it; verifying and mending, whatever the store."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, TypeVar

from rich.console import Console

from latentkit.errors import UsageError
from latentkit.sources.files import printable
from latentkit.sources.library import Library
from latentkit.sources.source import Source
from latentkit.stores.ledger import Damage, Ledger
from latentkit.stores.quarantine import quarantine_ledger
from latentkit.stores.storage import find_temporaries
from latentkit.stores.store import LEDGERS, Store, hidden_folder


class Kind(NamedTuple):
    """A kind of finding: what it means, and what mends it."""

    meaning: str
    remedy: str


FIX, PRUNE, ENCODE = "fix=true", "latentkit.prune", "latentkit.encode"
AGAIN = "encode again; fix=true forgets it"
MIGRATE = "latentkit.migrate; what it cannot move: encode encoder=dinov3, then migrate again"

KINDS: dict[str, Kind] = {
    "contract": Kind(
        "none that can be read, or another encoder's: not checked", "restore it, or overwrite=true"
    ),
    "index": Kind("the collection has other counts than it should", "latentkit.prepare"),
    "manifest": Kind("missing, damaged, or not what the ledgers say", FIX),
    "ledger": Kind("a shard's ledger is damaged, or of another contract", FIX),
    "missing": Kind("a ledger lists it, but it is not there", AGAIN),
    "unreadable": Kind("not a .npy file or a shard, or with Python objects in it", FIX),
    "shape": Kind("not the shape or dtype that its contract declares for its picture", FIX),
    "size": Kind("shorter or longer than its header says", FIX),
    "changed": Kind("not the size or sha256 that the ledger lists", FIX),
    "zeros": Kind("ends in zeros, as after a power cut", FIX),
    "non-finite": Kind("NaN or infinity among its numbers", FIX),
    "keys": Kind("a shard's pictures are not those of its ledger", FIX),
    "labels": Kind("a label is not its picture's class", FIX),
    "unlisted": Kind("a file that no ledger lists", FIX),
    "line": Kind("a line that cannot be read", FIX),
    "duplicate": Kind("a second record of a picture", FIX),
    "record": Kind("a record's field is wrong", FIX),
    "unencoded": Kind("a wrong field that no ledger knows yet", "the next encode of its picture"),
    "mask": Kind("a record's attention mask is wrong", FIX),
    "claim": Kind("a record lists an output that is not there", FIX),
    "unrecorded": Kind("outputs without a record", FIX),
    "temporary": Kind("left behind by a killed process", FIX),
    "stage1": Kind("a Stage 1 record, with its embedding inline", MIGRATE),
    "orphan": Kind("belongs to no picture", PRUNE),
    "link": Kind("a link that leads to nothing", PRUNE),
    "outdated": Kind("the collection has other pictures there now", ENCODE),
    "incomplete": Kind("pictures are still to be encoded", ENCODE),
    "classes": Kind("a class without a picture", "encode retry_quarantined=true"),
}
"""In the order in which they are shown."""

COSTLY = frozenset(
    {"ledger", "missing", "unreadable", "shape", "size", "changed", "zeros", "non-finite"}
    | {"keys", "labels", "unlisted"}
)
"""Kinds that cost a picture its output of one encoder, or all that is in a shard."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: one of `KINDS`.
        path: the file that it is about.
        detail: what is wrong, in a few words.
        encoder, key: whose output of which picture, or which shard's file; None where that means nothing.
    """

    kind: str
    path: str
    detail: str
    encoder: str | None = None
    key: str | None = None


FULL, QUICK, NAMES = "full", "quick", "names"
"""How far to look: at every byte; at names and sizes, and of shards at some whole; at names and sizes alone.

The last is for what was just mended: there, an output that is not complete is nothing wrong.
"""

MODES = (FULL, QUICK)

_THREADS = min(8, os.cpu_count() or 1)
_Store = TypeVar("_Store", bound=Store)
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class EncoderState(NamedTuple):
    """One encoder's outputs, in pictures.

    Attributes:
        done: listed in the ledger, not found bad, and not stale.
        bad: whose output is missing or wrong.
        quarantined: held back because they failed.
        unchecked: listed in the ledger, without a readable contract to hold their arrays against.
        incomplete: not done yet, for whatever other reason, or stale (`stale_outputs`): to be encoded;
            nothing is wrong with that.
    """

    encoder: str
    done: int
    bad: int
    quarantined: int
    unchecked: int
    incomplete: int


class Verification(ABC, Generic[_Store]):
    """One look at an output that nobody writes meanwhile.

    Args:
        store: the outputs.
        source: the pictures that they are held against.
        library: the photo library that the source is; None for any other.
        mode: how far to look.
        seed: of the choice of the shards that `QUICK` reads.

    Attributes:
        findings, encoders: what `run` found.
        pictures: in the collection.
        records: lines of the records file; None where a store has none.
        arrays, bytes: that were read.
        things: what was read, in one word.
    """

    things: ClassVar[str]

    def __init__(self, store: _Store, source: Source, library: Library | None, mode: str, seed: int) -> None:
        self.store, self.source, self.library = store, source, library
        self.mode, self.seed = mode, seed
        self.root = Path(store.root)
        self.findings: list[Finding] = []
        self.encoders: list[EncoderState] = []
        self.pictures, self.arrays, self.bytes = len(source), 0, 0
        self.records: int | None = None

    def run(self, console: Console) -> None:
        """Look at everything; changes nothing.

        Raises:
            LatentkitError: there is no output at all, or none of this kind of store.
            UsageError: it is of another dataset or split.
        """
        self._require()
        folders = [(folder, True) for folder in self.store.array_folders() if folder != self.root]
        for folder, below in [(self.root, False), (self.root / LEDGERS, True), *folders]:
            for path in find_temporaries(folder, below=below):
                self.find("temporary", path, "a killed process left it")
        self.read_ledger(quarantine_ledger(self.root))
        for place, detail in self.source.shortfalls():
            self.find("index", place, detail)
        self.encoders = self._check(console)
        self.findings.sort(key=lambda found: (found.kind, found.path, found.key or ""))

    def mend(self, console: Console) -> tuple[int, list[Finding]]:
        """Set aside what `run` found, so that the next encode redoes just that; for the lock's holder.

        Files go to ``.latentkit/set-aside/<folder>/`` under the root, over what was set aside before; a
        folder on another disk has its own. Bad lines go to ``<name>.bad``. Safe to repeat after a kill.

        Returns:
            How many outputs the next encode will redo; what is still wrong, as far as names and sizes tell.
        """
        bad = self.bad()
        self.store.repair()
        self._set_aside(bad)
        now = type(self)(self.store, self.source, self.library, NAMES, self.seed)
        now.run(console)
        left = [found for found in self.findings if found.kind == "classes"]
        left += [found for found in now.findings if KINDS[found.kind].remedy != ENCODE]
        return sum(map(len, bad.values())), left

    def find(
        self, kind: str, path: Path, detail: str, encoder: str | None = None, key: str | None = None
    ) -> None:
        self.findings.append(Finding(kind, printable(path), detail, encoder, key))

    def read_ledger(self, ledger: Ledger[_Result], encoder: str | None = None) -> list[_Result]:
        """Entries, those of the journal last; a line that cannot be read is a finding."""
        damages: list[Damage] = []
        entries = [entry for entry, _ in ledger.read(damages)]
        for damage in damages:
            for number, _, cut in damage.lines:
                self.find("line", damage.path, f"line {number} is {'cut' if cut else 'bad'}", encoder)
        return entries

    def bad(self) -> dict[str, set[str]]:
        """Encoder -> pictures, or shards, whose outputs are set aside and encoded again."""
        bad: dict[str, set[str]] = {}
        for found in self.findings:
            if found.kind in COSTLY and found.encoder is not None and found.key is not None:
                bad.setdefault(found.encoder, set()).add(found.key)
        return bad

    def aside(self, folder: Path) -> Path:
        """Where what is bad in a folder of arrays is set aside."""
        return hidden_folder(folder, self.root) / "set-aside" / folder.relative_to(self.root)

    @abstractmethod
    def _require(self) -> None:
        """Raise LatentkitError where nothing can be verified."""

    @abstractmethod
    def _check(self, console: Console) -> list[EncoderState]:
        """Look at each encoder's outputs, and at what mentions them."""

    @abstractmethod
    def _set_aside(self, bad: Mapping[str, Set[str]]) -> None:
        """Forget and move the bad outputs of each encoder, and publish anew what mentions them."""


def check_mode(mode: str) -> None:
    """Raise UsageError unless it is one of `MODES`."""
    if mode not in MODES:
        raise UsageError(f"mode={mode}: choose one of {', '.join(MODES)}")


def in_threads(work: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[tuple[_Task, _Result]]:
    """(task, result) of each, in order; what a task raises is raised here."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from zip(tasks, pool.map(work, tasks), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
