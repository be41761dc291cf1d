"""What is done with outputs that are there: verified, pruned, packed into tars, moved to Stage 2."""

from collections.abc import Set
from contextlib import ExitStack, nullcontext
from pathlib import Path

from omegaconf import DictConfig

from latentkit.crawlr.migration import migrate as migrate_store
from latentkit.errors import UsageError
from latentkit.exports.webdataset import TarJob
from latentkit.jobs.collection import Collection, build_library, build_npy_store
from latentkit.report.findings import as_json, print_findings
from latentkit.report.sharding import announce, summarise
from latentkit.runtime.exit_status import DONE, FAILED, Outcome
from latentkit.runtime.readable import readable_count
from latentkit.runtime.terminal import open_console
from latentkit.sources import Source
from latentkit.sources.library import Library
from latentkit.stores import NpyStore, OutputLock
from latentkit.stores.storage import publish_json
from latentkit.upkeep import prune as pruning
from latentkit.upkeep.verification import check_mode
from latentkit.upkeep.verify import verification_of


def verify(cfg: DictConfig) -> Outcome:
    """Hold an output against its pictures, mend it if asked; the findings.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    if cfg.report and not Path(cfg.report).parent.is_dir():
        raise UsageError(f"report={cfg.report}: there is no folder {Path(cfg.report).parent}: make it first")
    check_mode(cfg.mode)
    collection = Collection(cfg)  # mistakes show before a lock makes folders; state is read later
    mended = None
    with OutputLock(collection.store.root) if cfg.fix else nullcontext():
        verification = verification_of(
            collection.store, collection.source, build_library(cfg), cfg.mode, cfg.seed
        )
        verification.run(console)
        print_findings(verification, console)
        left = verification.findings
        if cfg.fix and left:
            mended, left = verification.mend(console)
            console.print(f"set aside for the next encode: {mended:,}; {len(left):,} findings are left")
    result = as_json(verification, mended)
    if cfg.report:
        publish_json(Path(cfg.report), result)
    return Outcome(FAILED if left else DONE, result)


def prune(cfg: DictConfig) -> Outcome:
    """Remove what has no picture any more, or put back what the last prune removed; how many of each kind.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    if cfg.restore and cfg.dry_run:
        raise UsageError("restore=true has no dry run: it refuses by itself what it would overwrite")
    store, library = build_npy_store(cfg), build_library(cfg)
    if library and not cfg.restore:
        library.require()
    with ExitStack() as locks:
        if not cfg.dry_run:
            homes = {Path(store.root).resolve(), *([library.home.resolve()] if library else [])}
            for home in sorted(homes):
                locks.enter_context(OutputLock(home))
        if cfg.restore:
            count = pruning.restore(store, library)
            console.print(f"{readable_count(count, 'thing')} put back" if count else "nothing to restore")
            return Outcome(DONE, {"restored": count})
        back = "restore=true puts them back until the next prune"
        counts = prune_store(cfg, store, library or Collection(cfg).source, back)
    return Outcome(DONE, {"would_remove" if cfg.dry_run else "removed": counts})


def prune_store(
    cfg: DictConfig, store: NpyStore, pictures: Library | Source, back: str, withdrawn: Set[str] = frozenset()
) -> dict[str, int]:
    """Prune as the configuration asks, and say what went and how it comes back; how many of each kind.

    Raises:
        LatentkitError: as `latentkit.upkeep.prune.prune`.
    """
    say = print if cfg.dry_run or cfg.verbose else None
    plan = pruning.prune(
        store, pictures, withdrawn=withdrawn, max_share=cfg.max_share, dry_run=cfg.dry_run, say=say
    )
    verb = "would go" if cfg.dry_run else f"removed; {back}"
    open_console().print(f"{plan.words()}: {verb}" if plan else "nothing to prune")
    return plan.counts()


def shard(cfg: DictConfig) -> Outcome:
    """Pack the complete pictures of an output into tars; their manifest, as far as they are there.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    job = TarJob(
        store=build_npy_store(cfg),
        shards_dir=cfg.shards_dir,
        shard_size=cfg.shard_size,
        buckets=list(cfg.bucket) if cfg.bucket else None,
        shuffle=cfg.shuffle,
        seed=cfg.seed,
        members=dict(cfg.members),
    )
    with nullcontext() if cfg.dry_run else job.locks():
        plan = job.plan()
        announce(job, plan, console)
        if cfg.dry_run:
            console.print("dry_run=true: nothing was touched")
            return Outcome(DONE, plan.manifest.to_dict())
        status = summarise(job, plan, job.run(plan, console), console)
    return Outcome(status, plan.manifest.to_dict())


def migrate(cfg: DictConfig) -> Outcome:
    """Move the photo library's Stage 1 records to Stage 2; how many records there are, moved and stay.

    Raises:
        UsageError, LatentkitError: one line.
    """
    store, console = build_npy_store(cfg), open_console()
    if not (path := Path(store.root, store.records)).is_file():
        raise UsageError(f"{path} is not there: give output_dir=FOLDER, where the records lie")
    with nullcontext() if cfg.dry_run else OutputLock(cfg.output_dir):
        return migrate_store(store, console, dry_run=cfg.dry_run)
