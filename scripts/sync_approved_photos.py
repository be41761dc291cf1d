"""The approved photos of the crawler's list to data/raw and data/approved: `latentkit.sync`.

python3 scripts/sync_approved_photos.py
python3 scripts/sync_approved_photos.py --dry-run --limit 100 --verbose
"""

from __future__ import annotations

import argparse
import sys

from latentkit.jobs.command import call


def main(arguments: list[str] | None = None) -> int:
    """Sync; the exit status of `latentkit.sync`."""
    parser = argparse.ArgumentParser(description="Sync the approved photos of the crawler's list.")
    parser.add_argument("--base-url", metavar="URL", help="the list, without ?page=N")
    parser.add_argument("--raw", metavar="DIR", help="original bytes (data/raw)")
    parser.add_argument("--approved", metavar="DIR", help="links to them (data/approved)")
    parser.add_argument("--connections", type=int, metavar="N", help="downloads at a time (16)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photos of the list")
    parser.add_argument("--prune", action="store_true", help="also remove what the list no longer has")
    parser.add_argument("--max-share", type=float, metavar="S", help="share that pruning may remove (0.2)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, touch nothing")
    parser.add_argument("--verbose", action="store_true", help="a line for each photo")
    chosen = parser.parse_args(arguments)
    keys = {
        "base_url": chosen.base_url,
        "dataset.raw": chosen.raw,
        "dataset.root": chosen.approved,
        "connections": chosen.connections,
        "limit": chosen.limit,
        "prune": chosen.prune or None,
        "max_share": chosen.max_share,
        "dry_run": chosen.dry_run or None,
        "verbose": chosen.verbose or None,
    }
    return call("sync", keys)


if __name__ == "__main__":
    sys.exit(main())
