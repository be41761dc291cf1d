"""One verification: an output held against its pictures, and mended if that is asked for."""

from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from latentkit.errors import UsageError
from latentkit.jobs.collection import Collection, build_library
from latentkit.report.findings import as_json, print_findings
from latentkit.runtime.exit_status import DONE, FAILED, Outcome
from latentkit.runtime.terminal import open_console
from latentkit.stores import OutputLock
from latentkit.stores.storage import publish_json
from latentkit.upkeep.verification import check_mode
from latentkit.upkeep.verify import verification_of


def verify(cfg: DictConfig) -> Outcome:
    """Look, show, mend if asked; the findings.

    Raises:
        UsageError, LatentkitError: one line.
    """
    console = open_console()
    if cfg.report and not Path(cfg.report).parent.is_dir():
        raise UsageError(f"report={cfg.report}: there is no folder {Path(cfg.report).parent}: make it first")
    check_mode(cfg.mode)
    collection = Collection.from_config(cfg)  # mistakes show before a lock makes folders; state is read later
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
