"""One sharding: the complete pictures of an output into tars."""

from contextlib import nullcontext

from omegaconf import DictConfig

from latentkit.exports.webdataset import TarJob
from latentkit.jobs.collection import build_npy_store
from latentkit.report.sharding import announce, summarise
from latentkit.runtime.exit_status import DONE, Outcome
from latentkit.runtime.terminal import open_console


def shard(cfg: DictConfig) -> Outcome:
    """Plan, write, summarise; the manifest of the tars, as far as they are there.

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
