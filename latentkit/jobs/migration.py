"""One migration: the photo library's Stage 1 records to Stage 2."""

from __future__ import annotations

from contextlib import nullcontext

from omegaconf import DictConfig
from rich.console import Console

from latentkit.crawlr.migration import migrate as migrate_store
from latentkit.crawlr.migration import require_records
from latentkit.jobs.collection import build_npy_store
from latentkit.runtime.exit_status import Outcome
from latentkit.stores import OutputLock


def migrate(cfg: DictConfig) -> Outcome:
    """Migrate, say what was done; how many records there are, moved and stay.

    Raises:
        UsageError, LatentkitError: one line.
    """
    store, console = build_npy_store(cfg), Console(stderr=True)
    require_records(store)
    with nullcontext() if cfg.dry_run else OutputLock(cfg.output_dir):
        migrated = migrate_store(store, console, dry_run=cfg.dry_run)
    migrated.say(console, dry_run=cfg.dry_run)
    result = {
        "records": migrated.records,
        "moved": migrated.moved,
        "dropped": sorted(migrated.dropped),
        "entered": dict(migrated.entered),
        "left": {str(line): why for line, why in sorted(migrated.left.items())},
        "unfit": {str(path): why for path, why in migrated.unfit.items()},
        "bad_lines": migrated.bad_lines,
        "backup": str(migrated.backup) if migrated.backup else None,
    }
    return Outcome(migrated.status, result)
