"""One sync: the list is walked, threads fetch what is missing, and one thread keeps what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from latentkit.crawlr.check import Rejected
from latentkit.crawlr.folder import PhotoFolder, Whole
from latentkit.crawlr.keeper import Keeper
from latentkit.crawlr.ledger import Photo, Reason
from latentkit.crawlr.links import ForeignError
from latentkit.crawlr.names import shown
from latentkit.crawlr.photo_list import BadEntry, Listed, ListError
from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Stopped
from latentkit.downloading.watchdog import Stop
from latentkit.errors import LatentkitError

FAILURES_IN_A_ROW = 100
"""Downloads that fail one after another before a sync ends: then it is the server, and no photo's fault."""

_T = TypeVar("_T")


class Sync:
    """A sync of a photo library with a list. To be run once.

    An entry that cannot be read is counted and passed over; the list then counts as not read to its end, as
    the entry may be of any photo.

    A photo that is there is known by the size and mtime in the ledger, and is never fetched again, whatever
    its URL; any other file is decoded to be known. A quarantined photo is fetched again when its URL changed.

    Args:
        keeper: of the library's ledger and links.
        folder: of the photos.
        threads: that fetch and decode.
        stop: ends the sync early when it is set; the sync sets it itself when something else ends it.
        retry_quarantined: fetch quarantined photos again, whether or not their URL changed.
        dry_run: count what would be decoded and fetched, in place of doing it.
        settled: is told of each entry, (name, what became of it), in the thread that runs the sync.

    Attributes:
        keeper, tally: as given; the keeper's.
        error: what ended the sync before its end; None when nothing did, or `stop`.
    """

    def __init__(
        self,
        keeper: Keeper,
        folder: PhotoFolder,
        *,
        threads: int,
        stop: Stop,
        retry_quarantined: bool,
        dry_run: bool,
        settled: Callable[[str, str], object],
    ) -> None:
        self.error: LatentkitError | None = None
        self.keeper = keeper
        self.tally = keeper.tally
        self._folder = folder
        self._threads = threads
        self._stop = stop
        self._retry = retry_quarantined
        self._dry_run = dry_run
        self._settled = settled
        self._listed: set[str] = set()
        self._urls: dict[str, str | None] = {}
        self._missing: set[str] = set()
        self._further: list[tuple[Photo, str]] = []
        self._pending: dict[Future[Any], tuple[str, Callable[[], str]]] = {}
        self._failed_in_a_row = 0

    def run(
        self,
        pages: Iterable[list[Listed | BadEntry]],
        limit: int | None,
        again: Iterable[list[Listed | BadEntry]] | None = None,
    ) -> None:
        """Take the list's entries, and publish what came of them.

        Args:
            pages: of `read_list`.
            limit: entries to take; the list then counts as not read to its end. None for all.
            again: a second reading, which is begun when something is not on the list: what is withdrawn
                between two pages moves the entries after it, and one of them is never seen. Nothing but
                their names is taken of it. None to do without.
        """
        with ThreadPoolExecutor(self._threads) as self._pool:
            try:
                self._walk(pages, limit)
                self._drain()
                self._compare()
                if again is not None and self.tally.complete and self.keeper.lacks(self._listed):
                    self._confirm(again)
                self._check_entries()
            except LatentkitError as error:
                self.error = self.error or error
                self._stop.set()
            except BaseException:
                self._stop.set()
                raise
        try:
            self.keeper.publish(self._listed, complete=self.tally.complete)
        except LatentkitError as error:
            self.error = self.error or error

    def _walk(self, pages: Iterable[list[Listed | BadEntry]], limit: int | None) -> None:
        try:
            for page in pages:
                for entry in page:
                    self._take(entry)
                    if self._stop or self.tally.processed == limit:
                        return
            self.tally.complete = limit is None and not self.tally.bad_entries
        except Stopped:
            pass
        except ListError as error:
            self.error = error

    def _confirm(self, pages: Iterable[list[Listed | BadEntry]]) -> None:
        self.tally.complete = False
        try:
            for page in pages:
                for entry in page:
                    if isinstance(entry, BadEntry):
                        self.tally.bad_entries[entry.where] = entry.reason
                    else:
                        self._listed.add(entry.filename)
            self.tally.complete = not self.tally.bad_entries
        except Stopped:
            pass
        except ListError as error:
            self.error = error

    def _check_entries(self) -> None:
        if self.tally.bad_entries and not self._stop:
            where, reason = next(iter(self.tally.bad_entries.items()))
            count = f"{len(self.tally.bad_entries):,}"
            raise ListError(
                f"the list has bad entries ({count}), the first {where}: {reason}; all others were taken"
            )

    def _take(self, listed: Listed | BadEntry) -> None:
        self.tally.processed += 1
        if isinstance(listed, BadEntry):
            self.tally.bad_entries[listed.where] = listed.reason
            self._settled(listed.where, listed.reason)
            return
        self._listed.add(listed.filename)
        photo = self.keeper.admit(listed.filename)
        if photo is None:
            self._settled(shown(listed.filename), "refused")
        elif listed.filename not in self._urls:
            changed = photo.url != listed.url
            self._urls[listed.filename] = photo.url = listed.url
            photo.listed, photo.metadata = True, listed.metadata
            self._judge(photo, photo.url, changed=changed)
        elif listed.url is None or listed.url == self._urls[listed.filename]:
            self.tally.duplicates += 1
            self._settled(photo.filename, "listed again")
        else:
            self._further.append((photo, listed.url))

    def _judge(self, photo: Photo, url: str | None, *, changed: bool) -> None:
        """Find out what a photo needs, and see to it."""
        try:
            there = self._folder.look(photo.filename)
        except ForeignError as error:
            photo.forget()
            self.keeper.conflict(photo, str(error))
            self._settled(photo.filename, str(error))
            return
        held = photo.quarantine is not None and not changed and not self._retry
        if there is not None and photo.sha256 is not None and photo.stat == there:
            self.tally.present += 1
            self.keeper.link(photo)
            self._settled(photo.filename, "unchanged")
        elif there is None and url is None:
            photo.forget()
            photo.quarantine = None
            self.tally.missing += 1
            self._missing.add(photo.filename)
            self._settled(photo.filename, "missing: no URL and no file")
        elif there is None and held:
            self._settled(photo.filename, "in quarantine")
        else:
            photo.forget()
            if not held:
                photo.quarantine = None  # to be fetched, by the next sync if this one does not come to it
            self._obtain(photo, None if held else url, there=there is not None)

    def _obtain(self, photo: Photo, url: str | None, *, there: bool) -> None:
        if self._dry_run:
            self.tally.decoded += there
            self.tally.downloaded += not there
            self._settled(photo.filename, "to decode" if there else "to download")
            return
        work = partial(self._folder.obtain, photo.filename, url, there=there)
        self._submit(photo.filename, work, partial(self._obtained, photo))

    def _obtained(self, photo: Photo, ask: Callable[[], Whole]) -> str:
        try:
            whole = ask()
        except Rejected as rejected:
            known = photo.quarantine
            if known is None or (known.stage, known.reason) != (rejected.stage, str(rejected)):
                photo.quarantine = Reason.now(rejected.stage, str(rejected))
            self.tally.failures.pop(photo.filename, None)
            self.keeper.note(photo)
            return f"quarantined: {rejected}"
        photo.type, photo.sha256, photo.stat, photo.quarantine = whole.type, whole.sha256, whole.stat, None
        self.tally.failures.pop(photo.filename, None)
        self.tally.downloaded += whole.fetched
        self.tally.decoded += not whole.fetched
        self.keeper.link(photo)
        self.keeper.note(photo)
        return f"{'downloaded' if whole.fetched else 'decoded'}: {whole.type}"

    def _compare(self) -> None:
        """See to the further URLs of photos, one of each photo at a time."""
        further = self._further
        while further and not self._stop:
            now = {pair[0].filename: pair for pair in reversed(further)}
            for photo, url in now.values():
                self._take_further(photo, url)
            self._drain()
            further = [pair for pair in further if now[pair[0].filename] is not pair]
        self.tally.left += len(further)

    def _take_further(self, photo: Photo, url: str) -> None:
        if self._dry_run:
            self._settled(photo.filename, "listed again, with another URL")
        elif photo.sha256 is None:
            if photo.filename in self._missing:
                self._missing.remove(photo.filename)
                self.tally.missing -= 1
            self._judge(photo, url, changed=False)
        elif url in photo.other_urls:
            self._settled(photo.filename, self._hold_against(photo, url))
        else:
            work = partial(self._folder.digest, url)
            self._submit(photo.filename, work, partial(self._compared, photo, url))

    def _compared(self, photo: Photo, url: str, ask: Callable[[], str]) -> str:
        photo.other_urls[url] = ask()
        self.keeper.note(photo)
        return self._hold_against(photo, url)

    def _hold_against(self, photo: Photo, url: str) -> str:
        if photo.other_urls[url] == photo.sha256:
            self.tally.duplicates += 1
            return "listed again, with the same bytes"
        self.keeper.conflict(photo, f"listed again, with other bytes, at {url}: not taken")
        return "listed again, with other bytes"

    def _submit(self, name: str, work: Callable[[], _T], handle: Callable[[Callable[[], _T]], str]) -> None:
        """Have a thread work, and this one handle the result when it is there."""
        while len(self._pending) >= 2 * self._threads:
            self._collect()
        future = self._pool.submit(self._unless_stopped, work)
        self._pending[future] = name, partial(handle, future.result)

    def _unless_stopped(self, work: Callable[[], _T]) -> _T:
        if self._stop:
            raise Stopped
        return work()

    def _drain(self) -> None:
        while self._pending:
            self._collect()

    def _collect(self) -> None:
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in done:
            name, handle = self._pending.pop(future)
            try:
                outcome = handle()
            except Stopped:
                self.tally.left += 1
                outcome = "not reached"
            except FetchError as error:
                outcome = f"failed: {error}"
                self.tally.failures[name] = str(error)
                self._failed_in_a_row += not error.final
            else:
                self._failed_in_a_row = 0
            self._settled(name, outcome)
            if self._failed_in_a_row == FAILURES_IN_A_ROW:
                raise LatentkitError(
                    f"{FAILURES_IN_A_ROW} downloads in a row failed, the last {name}: {outcome}"
                )
