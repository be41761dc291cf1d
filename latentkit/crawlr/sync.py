"""One sync: the list is walked, threads fetch what is missing, and one thread keeps the results."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

from latentkit.crawlr.folder import PhotoFolder, Rejected, Whole
from latentkit.crawlr.keeper import Keeper, Photo, Reason
from latentkit.crawlr.links import ForeignError
from latentkit.crawlr.names import shown
from latentkit.crawlr.photo_list import BadEntry, Listed, ListError
from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Stopped
from latentkit.downloading.deadline import Stop
from latentkit.errors import LatentkitError

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
    _urls: dict[str, str | None] = field(default_factory=dict)
    _listed: set[str] = field(default_factory=set)
    _missing: set[str] = field(default_factory=set)
    _further: list[tuple[Photo, str]] = field(default_factory=list)
    _pending: dict[Future[Whole | Rejected | str], tuple[Photo, str]] = field(default_factory=dict)
    _failed_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.tally = self.keeper.tally

    def run(
        self,
        entries: Iterable[Listed | BadEntry],
        limit: int | None,
        again: Iterable[Listed | BadEntry] | None = None,
    ) -> None:
        """Take the list's entries, and publish the results.

        Args:
            entries: of `read_list`.
            limit: entries to take; the list then counts as not read to its end. None for all.
            again: a second reading, which is begun when something is not on the list: what is withdrawn
                between two pages moves the entries after it, and one of them is never seen. Nothing but
                their names is taken of it. None to do without.
        """
        with ThreadPoolExecutor(self.threads) as self._pool:
            try:
                self._walk(entries, limit)
                self._drain()
                self._compare()
                if again is not None and self.tally.complete and self.keeper.lacks(self._listed):
                    self._walk(again, None, only_names=True)
                if self.tally.bad_entries and not self.stop:
                    where, reason = next(iter(self.tally.bad_entries.items()))
                    raise ListError(
                        f"the list has bad entries ({len(self.tally.bad_entries):,}), the first {where}: "
                        f"{reason}; all others were taken"
                    )
            except LatentkitError as error:
                self.error = self.error or error
                self.stop.set()
            except BaseException:
                self.stop.set()
                raise
        self.tally["missing"] = len(self._missing)
        try:
            self.keeper.publish(self._listed, complete=self.tally.complete)
        except LatentkitError as error:
            self.error = self.error or error

    def _walk(
        self, entries: Iterable[Listed | BadEntry], limit: int | None, *, only_names: bool = False
    ) -> None:
        """Take entries, up to the limit, and find out whether these are all."""
        self.tally.complete = False
        try:
            for count, entry in enumerate(entries, 1):
                if isinstance(entry, BadEntry):
                    self.tally.bad_entries[entry.where] = entry.reason
                else:
                    self._listed.add(entry.filename)
                if not only_names:
                    self._take(entry)
                if self.stop or count == limit:
                    return
            self.tally.complete = limit is None and not self.tally.bad_entries
        except Stopped:
            pass
        except ListError as error:
            self.error = error

    def _take(self, listed: Listed | BadEntry) -> None:
        self.tally["processed"] += 1
        if isinstance(listed, BadEntry):
            self.settled(listed.where, listed.reason)
        elif (photo := self.keeper.admit(listed.filename)) is None:
            self.settled(shown(listed.filename), "refused")
        elif listed.filename not in self._urls:
            changed = photo.url != listed.url
            self._urls[listed.filename] = photo.url = listed.url
            photo.listed, photo.metadata = True, listed.metadata
            self._tell(photo, self._judge(photo, photo.url, changed=changed))
        elif listed.url is None or listed.url == self._urls[listed.filename]:
            self.tally["duplicates"] += 1
            self.settled(photo.filename, "listed again")
        else:
            self._further.append((photo, listed.url))

    def _tell(self, photo: Photo, outcome: str) -> None:
        if outcome:
            self.settled(photo.filename, outcome)

    def _judge(self, photo: Photo, url: str | None, *, changed: bool) -> str:
        """Find out what a photo needs, and see to it. The outcome; empty while it is being obtained."""
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
        obtain = partial(self.folder.obtain, photo.filename, from_url, there=there is not None)
        return self._submit(photo, "", obtain)

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
            for photo, url in now.values():
                self._tell(photo, self._take_further(photo, url))
            self._drain()
            further = [pair for pair in further if now[pair[0].filename] is not pair]
        self.tally["left"] += len(further)

    def _take_further(self, photo: Photo, url: str) -> str:
        if self.dry_run:
            return "listed again, with another URL"
        if photo.source is None:
            self._missing.discard(photo.filename)
            return self._judge(photo, url, changed=False)
        if url in photo.other_urls:
            return self._compared(photo, url)
        return self._submit(photo, url, partial(self.folder.digest, url))

    def _compared(self, photo: Photo, url: str) -> str:
        """Hold a photo against another URL's bytes."""
        if photo.source is not None and photo.other_urls[url] == photo.source.sha256:
            self.tally["duplicates"] += 1
            return "listed again, with the same bytes"
        self.keeper.conflict(photo, f"listed again, with other bytes, at {url}: not taken")
        return "listed again, with other bytes"

    def _submit(self, photo: Photo, url: str, work: Callable[[], Whole | Rejected | str]) -> str:
        """Have a thread work: obtain a photo, or hash what another URL of it has. There is no outcome yet."""
        while len(self._pending) >= 2 * self.threads:
            self._collect()
        self._pending[self._pool.submit(work)] = photo, url
        return ""

    def _drain(self) -> None:
        while self._pending:
            self._collect()

    def _collect(self) -> None:
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in done:
            photo, url = self._pending.pop(future)
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
                raise LatentkitError(
                    f"{FAILURES_IN_A_ROW} downloads in a row failed, the last {name}: {outcome}"
                )
