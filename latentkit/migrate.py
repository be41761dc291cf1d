"""Stage 1 records, with inline embeddings, to Stage 2: a `.npy` a picture, and a contract on what is known.

    python -m latentkit.migrate                     the photo library's records, in data/derived
    python -m latentkit.migrate dry_run=true        what would be done; touches nothing
    python -m latentkit.migrate output_dir=DIR      another folder of records

The old records stay beside the new ones as ``<records>.stage1``. A second run changes nothing.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with records, lines or arrays left out; 130 interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from latentkit.jobs.command import command

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("migrate")
def main(cfg: DictConfig) -> int:
    """Compose, migrate, say what was done; the exit status."""
    from rich.console import Console

    from latentkit.crawlr.migration import migrate, require_records
    from latentkit.jobs.collection import build_npy_store
    from latentkit.stores import OutputLock

    store, console = build_npy_store(cfg), Console(stderr=True)
    require_records(store)
    with nullcontext() if cfg.dry_run else OutputLock(cfg.output_dir):
        migrated = migrate(store, console, dry_run=cfg.dry_run)
    migrated.say(console, dry_run=cfg.dry_run)
    return migrated.status


if __name__ == "__main__":
    main()
