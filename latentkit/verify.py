"""An output against its pictures: every record and ledger against every file, each read once and whole.

    python -m latentkit.verify                                  the photo library's outputs
    python -m latentkit.verify dataset=imagenet dataset.split=train        latent shards
    python -m latentkit.verify dataset=folder dataset.root=PHOTOS [store=shards]
    python -m latentkit.verify mode=quick ...                   sizes and headers; of shards, six by sha256
    python -m latentkit.verify report=FILE                      every finding as JSON
    python -m latentkit.verify fix=true                         set the bad aside; encode redoes just that

Of a .npy a picture, what is not encoded yet is counted, not wrong; of shards it is wrong. Run it while
nobody writes there; fix=true sees to that. Exit status: 0 nothing is wrong (with fix=true: any more, but for
what the next encode does); 1 something is; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from latentkit.errors import UsageError
from latentkit.jobs.command import command
from latentkit.runtime.exit_status import DONE, FAILED

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("verify")
def main(cfg: DictConfig) -> int:
    """Look, show, mend if asked; the exit status."""
    from rich.console import Console

    from latentkit.jobs.collection import Collection, build_library
    from latentkit.report.findings import as_json, print_findings
    from latentkit.stores import OutputLock
    from latentkit.stores.publish import publish_json
    from latentkit.upkeep.outputs import check_mode, open_output

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if cfg.report and not Path(cfg.report).parent.is_dir():
        raise UsageError(f"report={cfg.report}: there is no folder {Path(cfg.report).parent}: make it first")
    check_mode(cfg.mode)
    collection = Collection.from_config(cfg)  # mistakes show before a lock makes folders
    mended = None
    with OutputLock(collection.store.root) if cfg.fix else nullcontext():
        if cfg.fix:
            collection = Collection.from_config(cfg)  # with what another run wrote until now
        output = open_output(collection.store, collection.source, build_library(cfg), cfg.mode, cfg.seed)
        verified = output.verify(console)
        print_findings(verified, console)
        left = verified.findings
        if cfg.fix and left:
            mended = output.mend(verified)
            left = output.left(verified, console)
            console.print(f"set aside for the next encode: {mended:,}; {len(left):,} findings are left")
    if cfg.report:
        publish_json(Path(cfg.report), as_json(verified, mended))
    return FAILED if left else DONE


if __name__ == "__main__":
    main()
