"""One migration: the photo library's Stage 1 records to Stage 2."""

from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from latentkit.crawlr.migration import migrate as migrate_store
from latentkit.errors import UsageError
from latentkit.jobs.collection import build_npy_store
from latentkit.runtime.exit_status import Outcome
from latentkit.runtime.terminal import open_console
from latentkit.stores import OutputLock


def migrate(cfg: DictConfig) -> Outcome:
    """Migrate, say what was done; how many records there are, moved and stay.

    Raises:
        UsageError, LatentkitError: one line.
    """
    store, console = build_npy_store(cfg), open_console()
    if not (path := Path(store.root, store.records)).is_file():
        raise UsageError(f"{path} is not there: give output_dir=FOLDER, where the records lie")
    with nullcontext() if cfg.dry_run else OutputLock(cfg.output_dir):
        return migrate_store(store, console, dry_run=cfg.dry_run)
