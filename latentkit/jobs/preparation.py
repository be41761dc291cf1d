"""What comes before encoding: the photo library synced with its list, ImageNet's archives read."""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from latentkit.crawlr.folder import PhotoFolder
from latentkit.crawlr.keeper import Keeper
from latentkit.crawlr.photo_list import read_list
from latentkit.crawlr.sync import Sync
from latentkit.downloading.client import Client, is_http
from latentkit.downloading.deadline import Stop
from latentkit.errors import LatentkitError, UsageError
from latentkit.imagenet.extract import extract
from latentkit.imagenet.job import Preparation, index_path, provenance_path
from latentkit.imagenet.recognition import ROLES, find_archives
from latentkit.jobs.collection import build_library, build_npy_store
from latentkit.jobs.upkeep import prune_store
from latentkit.report.preparing import announce, summarise
from latentkit.runtime.exit_status import DONE, FAILED, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.runtime.terminal import first_lines, open_console
from latentkit.sources import ImageNetArchive
from latentkit.sources.files import printable
from latentkit.sources.imagenet.official import OFFICIAL
from latentkit.sources.library import Library
from latentkit.stores import NpyStore, OutputLock
from latentkit.stores.storage import publish_json

_WAITING = 4
"""Threads for each connection: photos that wait for their next attempt hold up no other."""


def sync(cfg: DictConfig) -> Outcome:
    """Check the configuration, sync, summarise, prune; what summary.json says.

    Raises:
        UsageError, LatentkitError: one line. Nothing was touched when it is about the configuration.
    """
    library, store = _check(cfg)
    console = open_console()
    with ExitStack() as locks:
        # One writer at a time for the library, and for the outputs when these are pruned.
        for home in (library.home, *([Path(store.root)] if cfg.prune else [])) if not cfg.dry_run else ():
            locks.enter_context(OutputLock(home))
        return _sync(cfg, library, store, console)


def _check(cfg: DictConfig) -> tuple[Library, NpyStore]:
    """The library's folders, and the store whose outputs pruning cleans; touches nothing."""
    if not is_http(cfg.base_url):
        raise UsageError(f"base_url={cfg.base_url}: give an http or https URL")
    if not cfg.deadline > 0:
        raise UsageError(f"deadline={cfg.deadline:g}: must be over 0 seconds")
    library, store = build_library(cfg), build_npy_store(cfg)
    if library is None:
        raise UsageError("this dataset is no photo library with a list: give dataset=crawlr")
    if Path(store.root).resolve() == library.home.resolve():
        raise UsageError(f"output_dir={store.root} is where the photo ledger lies: choose another")
    for folder in (library.home, library.raw, library.root):
        if os.path.lexists(folder) and not folder.is_dir():
            raise UsageError(f"{printable(folder)} is not a folder: move it away or set another")
    if library.raw.resolve() == library.root.resolve():
        raise UsageError(f"{printable(library.raw)} is to hold both the originals and the links: set another")
    photos = Path(cfg.dataset.photos).expanduser()
    if os.path.lexists(photos) and not photos.is_file():
        raise UsageError(f"{printable(photos)} is not a file: move it away or set dataset.photos")
    if cfg.prune and cfg.limit is not None:
        raise LatentkitError("prune=true needs the whole list: leave out limit; nothing was touched")
    return library, store


def _sync(cfg: DictConfig, library: Library, store: NpyStore, console: Console) -> Outcome:
    began, stop = time.monotonic(), Stop()
    client = Client(connections=cfg.connections, retries=cfg.retries, deadline=cfg.deadline, stop=stop)
    keeper = Keeper(library, Path(cfg.dataset.photos).expanduser(), dry_run=cfg.dry_run)
    with Interrupts(stop.set), ProgressReport("sync", None, console, "photos") as progress:

        def settled(name: str, outcome: str) -> None:
            progress.advance()
            if cfg.verbose:
                console.print(f"{name}: {outcome}")

        work = Sync(
            keeper=keeper,
            folder=PhotoFolder(library.raw, client),
            threads=cfg.connections * _WAITING,
            stop=stop,
            retry_quarantined=cfg.retry_quarantined,
            dry_run=cfg.dry_run,
            settled=settled,
        )
        again = read_list(client, cfg.base_url) if cfg.prune else None
        work.run(read_list(client, cfg.base_url), cfg.limit, again)

    tally, error = keeper.tally, work.error
    interrupted = bool(stop) and error is None
    whole = "done, with failures" if tally.failures else "done"
    status = "failed" if error else "interrupted" if interrupted else whole
    title = "dry run, nothing was touched" if cfg.dry_run else status
    tally.print(console, f"sync: {title}", dry_run=cfg.dry_run)
    for title, reasons in {
        "in quarantine.jsonl": keeper.reasons(),
        "entries of the list that cannot be read": tally.bad_entries,
        "failed, to be tried again by the next sync": tally.failures,
    }.items():
        if reasons:
            console.print(f"{title} ({len(reasons):,}):")
            for line in first_lines([f"{key}: {reason}" for key, reason in reasons.items()]):
                console.print(line)
    seconds = round(time.monotonic() - began, 3)
    summary = {"status": status, "base_url": cfg.base_url, "seconds": seconds, **tally.to_dict()}
    if not cfg.dry_run:
        try:
            publish_json(library.home / "summary.json", summary)
        except LatentkitError as unwritten:
            error = error or unwritten
    if cfg.prune and (interrupted or error):
        console.print("nothing was pruned: that needs a sync that comes to its end")
    if error:
        raise error
    if interrupted:
        console.print(f"interrupted after {tally['processed']:,} entries; the same command goes on")
        return Outcome(INTERRUPTED, summary)
    if cfg.prune and library.root.is_dir():
        back = "latentkit.prune restore=true puts them back"
        prune_store(cfg, store, library, back, keeper.withdrawn)
    elif cfg.prune:
        console.print("nothing to prune")
    done = FAILED if tally.failures else QUARANTINED if keeper.reasons() else DONE
    return Outcome(done, summary)


def prepare(cfg: DictConfig) -> Outcome:
    """Find, read, index, extract; the provenance of the archives.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    given = {role: cfg.archives[role] for role in ROLES}
    archives = find_archives(Path(cfg.archives.folder).expanduser(), given, OFFICIAL)
    output_dir, extract_dir = Path(cfg.output_dir).expanduser(), Path(cfg.extract_dir).expanduser()
    job = Preparation(archives, output_dir, cfg.allow_variant, console, overwrite=cfg.overwrite)
    announce(job, console)
    if cfg.dry_run:
        console.print("dry_run=true: nothing was touched")
        return Outcome(DONE, {"archives": [{"role": role, "path": str(archives[role])} for role in archives]})
    with OutputLock(output_dir):
        summarise(job.run(), output_dir, console)
        noted = json.loads(provenance_path(output_dir).read_bytes())
        if not cfg.extract:
            return Outcome(DONE, noted)
        sources = [
            ImageNetArchive(index=str(index_path(output_dir, split)), split=split) for split in job.splits
        ]
        with OutputLock(extract_dir):
            whole = extract(sources, extract_dir, console)
    if not whole:
        console.print("interrupted; the same command goes on from here")
    return Outcome(DONE if whole else INTERRUPTED, noted)
