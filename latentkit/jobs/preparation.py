"""One preparation of ImageNet: its archives read, indexed, and extracted if that is asked for."""

import json
from pathlib import Path

from omegaconf import DictConfig

from latentkit.imagenet.extract import extract
from latentkit.imagenet.job import Preparation, index_path, provenance_path
from latentkit.imagenet.recognition import ROLES, find_archives
from latentkit.report.preparing import announce, summarise
from latentkit.runtime.exit_status import DONE, INTERRUPTED, Outcome
from latentkit.runtime.terminal import open_console
from latentkit.sources import ImageNetArchive
from latentkit.sources.imagenet.official import OFFICIAL
from latentkit.stores import OutputLock


def prepare(cfg: DictConfig) -> Outcome:
    """Find, read, index, extract; the provenance of the archives.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    given = {role: cfg.archives[role] for role in ROLES}
    archives = find_archives(Path(cfg.archives.folder).expanduser(), given, OFFICIAL)
    output_dir, extract_dir = Path(cfg.output_dir).expanduser(), Path(cfg.extract_dir).expanduser()
    job = Preparation(archives, output_dir, cfg.allow_variant, console, overwrite=cfg.overwrite)
    announce(job, console)
    if cfg.dry_run:
        console.print("dry_run=true: nothing was touched")
        return Outcome(DONE, {"archives": [{"role": role, "path": str(archives[role])} for role in archives]})
    with OutputLock(output_dir):
        summarise(job.run(), output_dir, console)
        noted = json.loads(provenance_path(output_dir).read_bytes())
        if not cfg.extract:
            return Outcome(DONE, noted)
        sources = [
            ImageNetArchive(index=str(index_path(output_dir, split)), split=split) for split in job.splits
        ]
        with OutputLock(extract_dir):
            whole = extract(sources, extract_dir, console)
    if not whole:
        console.print("interrupted; the same command goes on from here")
    return Outcome(DONE if whole else INTERRUPTED, noted)
