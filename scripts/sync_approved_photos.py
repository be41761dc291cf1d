"""Download the approved photos of the crawler's list to data/raw and data/approved: `latentkit.sync`.

python3 scripts/sync_approved_photos.py
python3 scripts/sync_approved_photos.py --dry-run --limit 100 --verbose
"""

from __future__ import annotations

import argparse
import sys

from latentkit.jobs.command import as_overrides, run


def main(arguments: list[str] | None = None) -> int:
    """Run `latentkit.sync` and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Sync the approved photos of the crawler's list.", argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--base-url", metavar="URL", help="the list, without ?page=N")
    parser.add_argument("--raw", dest="dataset.raw", metavar="DIR", help="original bytes (data/raw)")
    parser.add_argument(
        "--approved", dest="dataset.root", metavar="DIR", help="links to them (data/approved)"
    )
    parser.add_argument("--connections", type=int, metavar="N", help="downloads at a time (16)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photos of the list")
    parser.add_argument("--prune", action="store_true", help="also remove what the list no longer has")
    parser.add_argument("--max-share", type=float, metavar="S", help="share that pruning may remove (0.2)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, touch nothing")
    parser.add_argument("--verbose", action="store_true", help="a line for each photo")
    return run("sync", as_overrides(vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
