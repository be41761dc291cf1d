"""ImageNet's archives, found, checked, noted and indexed; nothing is extracted unless asked.

    python -m latentkit.prepare                           the archives in data/
    python -m latentkit.prepare archives.train=FILE archives.val=FILE archives.devkit=FILE
    python -m latentkit.prepare extract=true              also outputs/datasets/imagenet1k_raw/{train,val}
    python -m latentkit.prepare allow_variant=true        archives that are not the official ones too
    python -m latentkit.prepare overwrite=true            archives that were read before too
    python -m latentkit.prepare dry_run=true              what would be read; touches nothing

Exit status: 0 done; 1 an archive is damaged or not the official one; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentkit.jobs.command import command
from latentkit.runtime.exit_status import DONE, INTERRUPTED

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("prepare")
def main(cfg: DictConfig) -> int:
    """Find, read, index, extract; the exit status."""
    from rich.console import Console

    from latentkit.imagenet.extract import extract
    from latentkit.imagenet.find import find_archives
    from latentkit.imagenet.job import Preparation
    from latentkit.imagenet.official import OFFICIAL, ROLES
    from latentkit.imagenet.provenance import index_path
    from latentkit.report.preparing import announce, summarise
    from latentkit.sources import ImageNetArchive
    from latentkit.stores import OutputLock

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    given = {role: cfg.archives[role] for role in ROLES}
    archives = find_archives(Path(cfg.archives.folder).expanduser(), given, OFFICIAL)
    output_dir, extract_dir = Path(cfg.output_dir).expanduser(), Path(cfg.extract_dir).expanduser()
    job = Preparation(archives, output_dir, cfg.allow_variant, console, overwrite=cfg.overwrite)
    announce(job, console)
    if cfg.dry_run:
        console.print("dry_run=true: nothing was touched")
        return DONE
    with OutputLock(output_dir):
        summarise(job.run(), output_dir, console)
        if not cfg.extract:
            return DONE
        sources = [
            ImageNetArchive(index=str(index_path(output_dir, split)), split=split) for split in job.splits
        ]
        with OutputLock(extract_dir):
            whole = extract(sources, extract_dir, console)
    if not whole:
        console.print("interrupted; the same command goes on from here")
    return DONE if whole else INTERRUPTED


if __name__ == "__main__":
    main()
