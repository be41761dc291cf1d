"""Remove what no longer belongs to any image of the photo library: `latentkit.prune`.

python3 scripts/prune_dataset.py --dry-run
python3 scripts/prune_dataset.py --verbose
python3 scripts/prune_dataset.py --restore
"""

from __future__ import annotations

import argparse
import sys

from latentkit.jobs.command import as_overrides, run


def main(arguments: list[str] | None = None) -> int:
    """Run `latentkit.prune` and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Prune the photo library's derived data.", argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--output-dir", metavar="DIR", help="the derived data (data/derived)")
    parser.add_argument("--approved", dest="dataset.root", metavar="DIR", help="the links (data/approved)")
    parser.add_argument("--max-share", type=float, metavar="S", help="refuse to remove a larger share (0.2)")
    parser.add_argument("--restore", action="store_true", help="put back what the last prune removed")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, touch nothing")
    parser.add_argument("--verbose", action="store_true", help="a line for each thing that is removed")
    return run("prune", as_overrides(vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
