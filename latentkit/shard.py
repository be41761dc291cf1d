"""Complete pictures into tars for WebDataset, bucket by bucket.

    python -m latentkit.shard                                     data/derived to data/shards
    python -m latentkit.shard shard_size=500 bucket=[1024x1024]   one bucket; the others stay as they are
    python -m latentkit.shard shuffle=true seed=1                 in a random order that the seed decides
    python -m latentkit.shard dataset=folder dataset.root=PHOTOS  outputs/PHOTOS to outputs/PHOTOS/webdataset
    python -m latentkit.shard dry_run=true                        what would be done; touches nothing

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with damaged pictures left out; 130 interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentkit.jobs.command import command
from latentkit.runtime.exit_status import DONE

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("shard")
def main(cfg: DictConfig) -> int:
    """Plan, write, summarise; the exit status."""
    from contextlib import nullcontext

    from rich.console import Console

    from latentkit.exports.webdataset import TarJob
    from latentkit.jobs.collection import build_npy_store
    from latentkit.report.sharding import announce, summarise

    console = Console(stderr=True)
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
            console.print("dry_run=true: nothing was touched", highlight=False)
            return DONE
        return summarise(job, plan, job.run(plan, console), console)


if __name__ == "__main__":
    main()
