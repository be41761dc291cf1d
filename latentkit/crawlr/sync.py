"""One sync: the list is walked, threads fetch what is missing, and one thread keeps the results."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from latentkit.crawlr.folder import ForeignError, PhotoFolder, Rejected, Whole
from latentkit.crawlr.keeper import Keeper, Photo, Reason
from latentkit.crawlr.photo_list import BadEntry, Entry, ListError, shown
from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Stopped
from latentkit.downloading.deadline import Stop
from latentkit.errors import LatentkitError
from latentkit.runtime.threads import as_they_end

_Work = Callable[[], Whole | Rejected | str]
_Task = tuple[Photo, str, _Work]
"""A photo, another URL of it that is to be hashed (else empty), and what a thread is to do."""

FAILURES_IN_A_ROW = 100
"""Downloads that fail one after another before a sync ends: then it is the server, and no photo's fault."""


@dataclass(eq=False, kw_only=True)
class Sync:
    """A sync of a photo library with a list. To be run once.

    An entry that cannot be read is counted and skipped; the list then counts as not read to its end, as the
    entry may be of any photo.

    A photo that is there is known by the size and mtime in the ledger, and is never fetched again, whatever
    its URL; any other file is decoded to be known. A quarantined photo is fetched again when its URL changed.

    Attributes:
        keeper: of the library's ledger and links.
        folder: of the photos.
        threads: that fetch and decode.
        stop: ends the sync early when it is set; the sync sets it itself when something else ends it.
        retry_quarantined: fetch quarantined photos again, whether or not their URL changed.
        dry_run: count what would be decoded and fetched, in place of doing it.
        settled: is told of each entry, (name, what became of it), in the thread that runs the sync.
        error: what ended the sync before its end; None when nothing did, or `stop`.
    """

    keeper: Keeper
    folder: PhotoFolder
    threads: int
    stop: Stop
    retry_quarantined: bool
    dry_run: bool
    settled: Callable[[str, str], object]
    error: LatentkitError | None = None
    _listed: set[str] = field(default_factory=set)
    _missing: set[str] = field(default_factory=set)
    _further: list[tuple[Photo, str]] = field(default_factory=list)
    _failed_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.tally = self.keeper.tally

    def run(self, entries: Iterable[Entry], limit: int | None, again: Iterable[Entry] | None = None) -> None:
        """Take the list's entries, and publish the results.

        Args:
            entries: of `read_list`.
            limit: entries to take; the list then counts as not read to its end. None for all.
            again: a second reading, which is begun when something is not on the list: what is withdrawn
                between two pages moves the entries after it, and one of them is never seen. Nothing but
                their names is taken of it. None to do without.
        """
        try:
            self._work(self._take(entry, first=first) for entry, first in self._read(entries, limit))
            self._compare()
            if again is not None and self.tally.complete and self.keeper.lacks(self._listed):
                for _ in self._read(again, None):
                    pass
            if self.tally.bad_entries and not self.stop:
                where, reason = next(iter(self.tally.bad_entries.items()))
                raise ListError(
                    f"the list has bad entries ({len(self.tally.bad_entries):,}), the first {where}: "
                    f"{reason}; all others were taken"
                )
        except LatentkitError as error:
            self.error = self.error or error
        self.tally["missing"] = len(self._missing)
        try:
            self.keeper.publish(self._listed, complete=self.tally.complete)
        except LatentkitError as error:
            self.error = self.error or error

    def _read(self, entries: Iterable[Entry], limit: int | None) -> Iterator[tuple[Entry, bool]]:
        """Entries up to the limit, and whether their names are new; finds out whether these are all."""
        self.tally.complete = False
        try:
            for count, entry in enumerate(entries, 1):
                if isinstance(entry, BadEntry):
                    self.tally.bad_entries[entry.where] = entry.reason
                    yield entry, True
                else:
                    first = entry.filename not in self._listed
                    self._listed.add(entry.filename)
                    yield entry, first
                if self.stop or count == limit:
                    return
            self.tally.complete = limit is None and not self.tally.bad_entries
        except Stopped:
            pass
        except ListError as error:
            self.error = error

    def _work(self, found: Iterable[Iterable[_Task]]) -> None:
        """Have threads work, and take what comes of it. However this ends, they have ended before."""
        tasks, ahead = itertools.chain.from_iterable(found), 2 * self.threads
        ended = as_they_end(lambda task: task[2](), tasks, self.threads, ahead, self.stop.set)
        with closing(ended):
            for (photo, url, _), result in ended:
                self._collect(photo, url, result)

    def _take(self, listed: Entry, *, first: bool) -> Iterator[_Task]:
        self.tally["processed"] += 1
        if isinstance(listed, BadEntry):
            self.settled(listed.where, listed.reason)
        elif (photo := self.keeper.admit(listed.filename)) is None:
            self.settled(shown(listed.filename), "refused")
        elif first:
            changed = photo.url != listed.url
            photo.url, photo.listed, photo.metadata = listed.url, True, listed.metadata
            yield from self._task(photo, photo.url, changed=changed)
        elif listed.url is None or listed.url == photo.url:
            self.tally["duplicates"] += 1
            self.settled(photo.filename, "listed again")
        else:
            self._further.append((photo, listed.url))

    def _task(self, photo: Photo, url: str | None, *, changed: bool) -> Iterator[_Task]:
        """What a thread is to do for a photo; nothing when its outcome is known."""
        outcome = self._judge(photo, url, changed=changed)
        if isinstance(outcome, str):
            self.settled(photo.filename, outcome)
        else:
            yield photo, "", outcome

    def _judge(self, photo: Photo, url: str | None, *, changed: bool) -> str | _Work:
        """Find out what a photo needs: its outcome, or how it is to be obtained."""
        try:
            there = self.folder.look(photo.filename)
        except ForeignError as error:
            photo.type = photo.source = None
            self.keeper.conflict(photo, str(error))
            return str(error)
        held = photo.quarantine is not None and not changed and not self.retry_quarantined
        if there is not None and photo.source is not None and photo.source.stat == there:
            self.tally["present"] += 1
            self.keeper.note(photo, link=True, fresh=False)
            return "unchanged"
        if there is None and url is not None and held:
            return "in quarantine"
        photo.type = photo.source = None
        if not held:
            photo.quarantine = None  # to be fetched, by the next sync if this one does not come to it
        if there is None and url is None:
            photo.quarantine = None
            self._missing.add(photo.filename)
            return "missing: no URL and no file"
        if self.dry_run:
            self.tally["decoded" if there else "downloaded"] += 1
            return "to decode" if there else "to download"
        from_url = None if held else url
        return partial(self.folder.obtain, photo.filename, from_url, there=there is not None)

    def _obtained(self, photo: Photo, found: Whole | Rejected) -> str:
        if isinstance(found, Rejected):
            known = photo.quarantine
            if known is None or known[:2] != (found.stage, str(found)):
                photo.quarantine = Reason.now(found.stage, str(found))
            self.keeper.note(photo)
            return f"quarantined: {found}"
        photo.type, photo.source, fetched = found
        photo.quarantine = None
        self.keeper.note(photo, link=True)
        outcome = "downloaded" if fetched else "decoded"
        self.tally[outcome] += 1
        return f"{outcome}: {photo.type}"

    def _compare(self) -> None:
        """See to the further URLs of photos, one of each photo at a time."""
        further = self._further
        while further and not self.stop:
            now = {pair[0].filename: pair for pair in reversed(further)}
            self._work(itertools.starmap(self._take_further, now.values()))
            further = [pair for pair in further if now[pair[0].filename] is not pair]
        self.tally["left"] += len(further)

    def _take_further(self, photo: Photo, url: str) -> Iterator[_Task]:
        if self.dry_run:
            self.settled(photo.filename, "listed again, with another URL")
        elif photo.source is None:
            self._missing.discard(photo.filename)
            yield from self._task(photo, url, changed=False)
        elif url in photo.other_urls:
            self.settled(photo.filename, self._compared(photo, url))
        else:
            yield photo, url, partial(self.folder.digest, url)

    def _compared(self, photo: Photo, url: str) -> str:
        """Hold a photo against another URL's bytes."""
        if photo.source is not None and photo.other_urls[url] == photo.source.sha256:
            self.tally["duplicates"] += 1
            return "listed again, with the same bytes"
        self.keeper.conflict(photo, f"listed again, with other bytes, at {url}: not taken")
        return "listed again, with other bytes"

    def _collect(self, photo: Photo, url: str, future: Future[Whole | Rejected | str]) -> None:
        name = photo.filename
        try:
            result = future.result()
            if isinstance(result, str):
                photo.other_urls[url] = result
                self.keeper.note(photo)
                outcome = self._compared(photo, url)
            else:
                self.tally.failures.pop(name, None)
                outcome = self._obtained(photo, result)
        except Stopped:
            self.tally["left"] += 1
            outcome = "not reached"
        except FetchError as error:
            outcome = f"failed: {error}"
            self.tally.failures[name] = str(error)
            self._failed_in_a_row += not error.final
        else:
            self._failed_in_a_row = 0
        self.settled(name, outcome)
        if self._failed_in_a_row == FAILURES_IN_A_ROW:
            raise LatentkitError(f"{FAILURES_IN_A_ROW} downloads in a row failed, the last {name}: {outcome}")
