"""Pack the photo library's complete records into WebDataset tars: `latentkit.shard`.

python3 scripts/create_webdataset_shards.py
python3 scripts/create_webdataset_shards.py --bucket 1024x1024 --bucket 832x1216 --shuffle
"""

from __future__ import annotations

import argparse
import sys

from latentkit.jobs.command import as_overrides, run


def main(arguments: list[str] | None = None) -> int:
    """Run `latentkit.shard` and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Pack the photo library into WebDataset tars.", argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--output-dir", metavar="DIR", help="the derived data (data/derived)")
    parser.add_argument("--shards-dir", metavar="DIR", help="where the tars go (data/shards)")
    parser.add_argument("--shard-size", type=int, metavar="N", help="pictures a tar (1000)")
    parser.add_argument("--bucket", action="append", metavar="WxH", help="only this bucket; may be repeated")
    parser.add_argument("--shuffle", action="store_true", help="in an order drawn from the seed")
    parser.add_argument("--seed", type=int, metavar="N", help="of the order (0)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, touch nothing")
    return run("shard", as_overrides(vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
