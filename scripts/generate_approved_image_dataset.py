"""Encode the photo library with DINOv3, Flux's VAE and T5: `latentkit.encode dataset=crawlr`.

python3 scripts/generate_approved_image_dataset.py                     all three
python3 scripts/generate_approved_image_dataset.py --pass vae          one of them: dinov3, vae, t5
python3 scripts/generate_approved_image_dataset.py --pass migrate      convert Stage 1 records to Stage 2
python3 scripts/generate_approved_image_dataset.py --verify            all three, then verify the output
"""

from __future__ import annotations

import argparse
import sys

from latentkit.jobs.command import as_overrides, run
from latentkit.runtime.exit_status import DONE, QUARANTINED

ENCODERS = {"dinov3": "dinov3", "vae": "flux_vae", "t5": "t5"}


def main(arguments: list[str] | None = None) -> int:
    """Encode or migrate, then verify if asked.

    Returns:
        The exit status of the last verb; if verifying found nothing wrong, that of encoding (0 or 3).
    """
    parser = argparse.ArgumentParser(description="Encode the photo library.")
    parser.add_argument("--pass", dest="only", choices=[*ENCODERS, "migrate"], help="this part alone")
    parser.add_argument("--progress-every", type=int, metavar="N", help="a progress line every N pictures")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--verify", action="store_true", help="verify every file afterwards")
    parser.add_argument("--vram", choices=["auto", "low", "high"], help="device memory profile (auto)")
    parser.add_argument("--caption", choices=["none", "transformers", "openai"], help="who captions (none)")
    parser.add_argument("--adopt", action="store_true", help="take over arrays of unrecorded making")
    parser.add_argument("--output-dir", metavar="DIR", help="where it goes (data/derived)")
    parser.add_argument("--approved", metavar="DIR", help="the links (data/approved)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, touch nothing")
    chosen = parser.parse_args(arguments)
    if chosen.only == "migrate" and chosen.limit is not None:
        parser.error("--pass migrate takes all records: leave out --limit")
    everywhere = _given({"output_dir": chosen.output_dir, "dataset.root": chosen.approved})
    if chosen.only == "migrate":
        status = run("migrate", everywhere + _given({"dry_run": chosen.dry_run}))
    else:
        keys = {
            "dataset": "crawlr",
            "encoder": ENCODERS.get(chosen.only),
            "progress_every": chosen.progress_every,
            "limit": chosen.limit,
            "vram": chosen.vram,
            "caption": chosen.caption,
            "adopt": chosen.adopt,
            "dry_run": chosen.dry_run,
        }
        status = run("encode", _given(keys) + everywhere)
    if chosen.verify and not chosen.dry_run and status in (DONE, QUARANTINED):
        status = run("verify", everywhere) or status
    return status


def _given(keys: dict[str, object]) -> list[str]:
    """Overrides for the given options; the others keep their defaults."""
    return as_overrides({key: value for key, value in keys.items() if value is not None})


if __name__ == "__main__":
    sys.exit(main())
