"""One prune: what has no picture any more leaves the outputs, or the last prune is undone."""

from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from latentkit.errors import UsageError
from latentkit.jobs.collection import Collection, build_library, build_npy_store
from latentkit.runtime.exit_status import DONE, Outcome
from latentkit.runtime.readable import readable_count
from latentkit.runtime.terminal import open_console
from latentkit.stores import OutputLock
from latentkit.upkeep import prune as upkeep


def prune(cfg: DictConfig) -> Outcome:
    """Prune or restore; how many things of each kind went, or would go.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    if cfg.restore and cfg.dry_run:
        raise UsageError("restore=true has no dry run: it refuses by itself what it would overwrite")
    upkeep.check_max_share(cfg.max_share)
    store, library = build_npy_store(cfg), build_library(cfg)
    if library and not cfg.restore:
        library.require()
    with ExitStack() as locks:
        if not cfg.dry_run:
            homes = {Path(store.root).resolve(), *([library.home.resolve()] if library else [])}
            for home in sorted(homes):
                locks.enter_context(OutputLock(home))
        if cfg.restore:
            count = upkeep.restore(store, library)
            console.print(f"{readable_count(count, 'thing')} put back" if count else "nothing to restore")
            return Outcome(DONE, {"restored": count})
        plan = upkeep.prune(
            store,
            library or Collection.from_config(cfg).source,
            max_share=cfg.max_share,
            dry_run=cfg.dry_run,
            say=print if cfg.dry_run or cfg.verbose else None,
        )
    verb = "would go" if cfg.dry_run else "removed; restore=true puts them back until the next prune"
    console.print(f"{plan.words()}: {verb}" if plan else "nothing to prune")
    return Outcome(DONE, {"would_remove" if cfg.dry_run else "removed": plan.counts() if plan else {}})
