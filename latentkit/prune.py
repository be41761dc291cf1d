"""What has no picture any more leaves the outputs, and can be put back.

    python -m latentkit.prune dry_run=true                     what would go, a line a thing on stdout
    python -m latentkit.prune                                  broken links, records and arrays of data/
    python -m latentkit.prune max_share=0.5                    when more than a fifth of anything may go
    python -m latentkit.prune restore=true                     put back what the last prune removed
    python -m latentkit.prune dataset=folder dataset.root=PHOTOS

Exit status: 0 done, or nothing to do; 1 refused or failed; 2 wrong usage; 130 interrupted: the next prune
finishes it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from latentkit.jobs.command import command
from latentkit.runtime.exit_status import DONE

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("prune")
def main(cfg: DictConfig) -> int:
    """Prune or restore; the exit status."""
    from rich.console import Console

    from latentkit.errors import UsageError
    from latentkit.jobs.collection import Collection, build_library, build_npy_store
    from latentkit.runtime.readable import readable_count
    from latentkit.stores import OutputLock
    from latentkit.upkeep.prune import check_max_share, prune, restore

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if cfg.restore and cfg.dry_run:
        raise UsageError("restore=true has no dry run: it refuses by itself what it would overwrite")
    check_max_share(cfg.max_share)
    store, library = build_npy_store(cfg), build_library(cfg)
    if library and not cfg.restore:
        library.require()
    with ExitStack() as locks:
        if not cfg.dry_run:
            homes = {Path(store.root).resolve(), *([library.home.resolve()] if library else [])}
            for home in sorted(homes):
                locks.enter_context(OutputLock(home))
        if cfg.restore:
            count = restore(store, library)
            console.print(f"{readable_count(count, 'thing')} put back" if count else "nothing to restore")
            return DONE
        plan = prune(
            store,
            library or Collection.from_config(cfg).source,
            max_share=cfg.max_share,
            dry_run=cfg.dry_run,
            say=print if cfg.dry_run or cfg.verbose else None,
        )
    verb = "would go" if cfg.dry_run else "removed; restore=true puts them back until the next prune"
    console.print(f"{plan.words()}: {verb}" if plan else "nothing to prune")
    return DONE


if __name__ == "__main__":
    main()
