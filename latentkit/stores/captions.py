"""Writing captions down: ``captions.jsonl`` grows by a line for each, and is sorted when a run ends.

The lines are those of `latentkit.sources.captions`. A killed run leaves an unsorted file whose last line may
be cut; folding it later gives what folding it then would have given. For the holder of the output's lock.
"""

from pathlib import Path

from latentkit.runtime.provenance import utc_now
from latentkit.sources.captions import Written, parse_caption
from latentkit.stores.ledger import Damage, append_lines, dump, publish_lines, read_lines, source_fields


def captions_path(root: str | Path) -> Path:
    """Where an output's captions lie."""
    return Path(root, "captions.jsonl")


def append_caption(path: Path, key: str, written: Written) -> None:
    """Write one caption down; it is on the disk when this returns. The file must have been folded before.

    Raises:
        LatentkitError: one line with the path and the cause.
    """
    said = {"caption": written.caption, "model": written.model, "prompt_sha256": written.prompt_sha256}
    append_lines(path, [dump({"key": key, **said, **source_fields(written.picture), "time": utc_now()})])


def fold_captions(path: Path) -> None:
    """Sort by key, the lines of one key staying in their order; trim a cut line, keep bad ones aside."""
    damage = Damage(path)
    lines = [(key, raw) for (key, _), raw in read_lines(path, parse_caption, damage)]
    damage.report(keep_cut=False)
    ordered = sorted(lines, key=lambda line: line[0])
    if damage.lines or ordered != lines:
        publish_lines(path, (raw for _, raw in ordered))
