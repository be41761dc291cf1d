"""Captions for the pictures that have none, written by a model.

    python -m latentkit.caption caption=openai                      gemma3:27b of Ollama on this machine
    python -m latentkit.caption caption=openai caption.url=http://HOST:8000/v1 caption.model=NAME
    python -m latentkit.caption caption=transformers                google/gemma-3-27b-it, 55 GB
    python -m latentkit.caption caption=transformers caption.model=FOLDER
    python -m latentkit.caption dataset=folder dataset.root=PHOTOS caption=openai
    python -m latentkit.caption caption=openai overwrite=true       anew what another model wrote
    python -m latentkit.caption caption=openai dry_run=true         how many; touches nothing

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with pictures in quarantine; 130 interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from latentkit.jobs.command import command
from latentkit.runtime.exit_status import DONE

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("caption")
def main(cfg: DictConfig) -> int:
    """Compose, plan, caption, sum up; the exit status."""
    from latentkit.jobs.captioning import CaptionJob
    from latentkit.stores import OutputLock

    job = CaptionJob.from_config(cfg)
    with nullcontext() if job.dry_run else OutputLock(job.root):
        if not job.dry_run:
            job = CaptionJob.from_config(cfg)  # with what another run wrote until now
        plan = job.plan()
        job.announce(plan)
        return DONE if job.dry_run else job.summarise(plan, job.run(plan))


if __name__ == "__main__":
    main()
