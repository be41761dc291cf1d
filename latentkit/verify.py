"""Every record against every file, each array read once and whole.

    python -m latentkit.verify                                  the photo library's outputs
    python -m latentkit.verify report=FILE                      every finding as JSON
    python -m latentkit.verify fix=true                         set the bad aside; encode redoes just that
    python -m latentkit.verify dataset=folder dataset.root=PHOTOS

What is not encoded yet is counted, not wrong. Run it while nobody writes there; fix=true sees to that.
Exit status: 0 nothing is wrong (with fix=true: any more); 1 something is; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from latentkit.command import DONE, FAILED, command
from latentkit.errors import UsageError


@command("verify")
def main(cfg: DictConfig) -> int:
    """Look, show, mend if asked; the exit status."""
    from rich.console import Console

    from latentkit.collection import Collection, build_library, build_npy_store
    from latentkit.report.findings import as_json, print_findings
    from latentkit.stores import OutputLock
    from latentkit.stores.publish import publish_json
    from latentkit.upkeep.mending import mend
    from latentkit.upkeep.verification import Pictures, Verification

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if cfg.report and not Path(cfg.report).parent.is_dir():
        raise UsageError(f"report={cfg.report}: there is no folder {Path(cfg.report).parent}: make it first")
    store = build_npy_store(cfg)
    Collection.from_config(cfg)  # mistakes show before a lock makes folders
    mended = None
    with OutputLock(store.root) if cfg.fix else nullcontext():
        source = Collection.from_config(cfg).source  # with what another run wrote until now
        pictures = Pictures.of(source, build_library(cfg))
        verified = Verification(store, pictures).run(console)
        print_findings(verified, console)
        left = verified.findings
        if cfg.fix and left:
            mended = mend(store, source, left)
            left = Verification(store, pictures, read=False).run(console).findings
            console.print(f"set aside for the next encode: {mended:,}; {len(left):,} findings are left")
    if cfg.report:
        publish_json(Path(cfg.report), as_json(verified, mended))
    return FAILED if left else DONE


if __name__ == "__main__":
    main()
