"""A sync as its command runs it: from the configuration to the table and the exit status."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from latentkit.crawlr.folder import PhotoFolder
from latentkit.crawlr.keeper import Keeper
from latentkit.crawlr.photo_list import check_base_url, read_list
from latentkit.crawlr.sync import Sync
from latentkit.crawlr.tally import print_reasons
from latentkit.downloading.client import Client
from latentkit.downloading.watchdog import Stop
from latentkit.errors import LatentkitError, UsageError
from latentkit.jobs.collection import build_library, build_npy_store
from latentkit.runtime.exit_status import DONE, FAILED, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable
from latentkit.sources.library import Library
from latentkit.stores import NpyStore, OutputLock
from latentkit.stores.storage import publish_json
from latentkit.upkeep.prune import check_max_share, prune

_WAITING = 4
"""Threads for each connection: photos that wait for their next attempt hold up no other."""


def sync(cfg: DictConfig) -> Outcome:
    """Sync, summarise, prune; what summary.json says.

    Raises:
        UsageError, LatentkitError: one line.
    """
    job = SyncJob.from_config(cfg)
    with job.locks():
        return job.run()


@dataclass
class SyncJob:
    """`Sync` with what it needs.

    Attributes:
        library: the folders of photos and links.
        store: their outputs, which pruning cleans as well.
        cfg: as the command had it.
        console: on stderr.
    """

    library: Library
    store: NpyStore
    cfg: DictConfig
    console: Console

    @classmethod
    def from_config(cls, cfg: DictConfig) -> SyncJob:
        """Hold the configuration against what can be; touches nothing.

        Raises:
            UsageError, LatentkitError: one line.
        """
        check_base_url(cfg.base_url)
        for key, least in (("connections", 1), ("retries", 0), ("limit", 1)):
            if cfg[key] is not None and cfg[key] < least:
                raise UsageError(f"{key}={cfg[key]}: must be at least {least}")
        if not cfg.deadline > 0:
            raise UsageError(f"deadline={cfg.deadline:g}: must be over 0 seconds")
        check_max_share(cfg.max_share)
        library = build_library(cfg)
        if library is None:
            raise UsageError("this dataset is no photo library with a list: give dataset=crawlr")
        store = build_npy_store(cfg)
        if Path(store.root).resolve() == library.home.resolve():
            raise UsageError(f"output_dir={store.root} is where the photo ledger lies: choose another")
        _refuse_strangers(library, photos=Path(cfg.dataset.photos).expanduser())
        if cfg.prune and cfg.limit is not None:
            raise LatentkitError("prune=true needs the whole list: leave out limit; nothing was touched")
        return cls(library, store, cfg, Console(stderr=True))

    @contextmanager
    def locks(self) -> Iterator[None]:
        """One writer at a time for the library, and for the outputs when these are pruned."""
        homes = [self.library.home, *([Path(self.store.root)] if self.cfg.prune else [])]
        with ExitStack() as stack:
            for home in homes if not self.cfg.dry_run else ():
                stack.enter_context(OutputLock(home))
            yield

    def run(self) -> Outcome:
        """Sync, summarise, prune; what summary.json says.

        Raises:
            LatentkitError: pruning was refused, or failed.
        """
        began = time.monotonic()
        cfg, stop = self.cfg, Stop()
        client = Client(connections=cfg.connections, retries=cfg.retries, deadline=cfg.deadline, stop=stop)
        keeper = Keeper(self.library, Path(cfg.dataset.photos).expanduser(), dry_run=cfg.dry_run)
        with Interrupts(stop.set), client, ProgressReport("sync", None, self.console, "photos") as progress:

            def settled(name: str, outcome: str) -> None:
                progress.advance()
                if cfg.verbose:
                    self._say(f"{name}: {outcome}")

            sync = Sync(
                keeper,
                PhotoFolder(self.library.raw, client),
                threads=cfg.connections * _WAITING,
                stop=stop,
                retry_quarantined=cfg.retry_quarantined,
                dry_run=cfg.dry_run,
                settled=settled,
            )
            again = read_list(client, cfg.base_url) if cfg.prune else None
            sync.run(read_list(client, cfg.base_url), cfg.limit, again)
        interrupted = bool(stop) and sync.error is None
        status = "interrupted" if interrupted else _status(sync)
        seconds = round(time.monotonic() - began, 3)
        summary = {"status": status, "base_url": cfg.base_url, "seconds": seconds, **sync.tally.to_dict()}
        error = self._summarise(sync, summary)
        if cfg.prune and (interrupted or error):
            self._say("nothing was pruned: that needs a sync that comes to its end")
        if error:
            raise error
        if interrupted:
            self._say(f"interrupted after {sync.tally.processed:,} entries; the same command goes on")
            return Outcome(INTERRUPTED, summary)
        if cfg.prune:
            self._prune(keeper.withdrawn)
        if sync.tally.failures:
            return Outcome(FAILED, summary)
        return Outcome(QUARANTINED if keeper.reasons() else DONE, summary)

    def _summarise(self, sync: Sync, summary: dict[str, Any]) -> LatentkitError | None:
        """Print the table and publish summary.json; what ended the sync, or else kept this from the disk."""
        tally, dry_run = sync.tally, bool(self.cfg.dry_run)
        title = "sync: dry run, nothing was touched" if dry_run else f"sync: {summary['status']}"
        tally.print(self.console, title, dry_run=dry_run)
        print_reasons(self.console, "in quarantine.jsonl", sync.keeper.reasons())
        print_reasons(self.console, "entries of the list that cannot be read", tally.bad_entries)
        print_reasons(self.console, "failed, to be tried again by the next sync", tally.failures)
        if dry_run:
            return sync.error
        try:
            publish_json(self.library.home / "summary.json", summary)
        except LatentkitError as error:
            return sync.error or error
        return sync.error

    def _prune(self, withdrawn: set[str]) -> None:
        """Only after a list that was read to its end."""
        if not self.library.root.is_dir():
            self._say("nothing to prune")
            return
        plan = prune(
            self.store,
            self.library,
            withdrawn=withdrawn,
            max_share=self.cfg.max_share,
            dry_run=self.cfg.dry_run,
            say=print if self.cfg.dry_run or self.cfg.verbose else None,
        )
        verb = "would go" if self.cfg.dry_run else "removed; latentkit.prune restore=true puts them back"
        self._say(f"{plan.words()}: {verb}" if plan else "nothing to prune")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _refuse_strangers(library: Library, photos: Path) -> None:
    """Raise UsageError when something else is where the library's folders and its ledger are to be."""
    for folder in (library.home, library.raw, library.root):
        if os.path.lexists(folder) and not folder.is_dir():
            raise UsageError(f"{printable(folder)} is there and no folder: move it away or set another")
    if library.raw.resolve() == library.root.resolve():
        raise UsageError(f"{printable(library.raw)} is to hold both the originals and the links: set another")
    if os.path.lexists(photos) and not photos.is_file():
        raise UsageError(f"{printable(photos)} is there and no file: move it away or set dataset.photos")


def _status(sync: Sync) -> str:
    """In a word; of one that was not interrupted."""
    if sync.error is not None:
        return "failed"
    return "done, with failures" if sync.tally.failures else "done"
