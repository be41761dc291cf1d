"""What can be wrong with an output, by name, and what mends it."""

from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of finding: what it means, and what mends it."""

    meaning: str
    remedy: str


FIX, PRUNE, ENCODE = "fix=true", "latentkit.prune", "latentkit.encode"
AGAIN = "encode again; fix=true forgets it"
MIGRATE = "latentkit.migrate; what it cannot move: encode encoder=dinov3, then migrate again"

KINDS: dict[str, Kind] = {
    "contract": Kind(
        "none that can be read, or another encoder's: not checked", "restore it, or overwrite=true"
    ),
    "index": Kind("the collection has other counts than it should", "latentkit.prepare"),
    "manifest": Kind("missing, damaged, or not what the ledgers say", FIX),
    "ledger": Kind("a shard's ledger is damaged, or of another contract", FIX),
    "missing": Kind("a ledger lists it, but it is not there", AGAIN),
    "unreadable": Kind("not a .npy file or a shard, or with Python objects in it", FIX),
    "shape": Kind("not the shape or dtype that its contract declares for its picture", FIX),
    "size": Kind("shorter or longer than its header says", FIX),
    "changed": Kind("not the size or sha256 that the ledger lists", FIX),
    "zeros": Kind("ends in zeros, as after a power cut", FIX),
    "non-finite": Kind("NaN or infinity among its numbers", FIX),
    "keys": Kind("a shard's pictures are not those of its ledger", FIX),
    "labels": Kind("a label is not its picture's class", FIX),
    "unlisted": Kind("a file that no ledger lists", FIX),
    "line": Kind("a line that cannot be read", FIX),
    "duplicate": Kind("a second record of a picture", FIX),
    "record": Kind("a record's field is wrong", FIX),
    "unencoded": Kind("a wrong field that no ledger knows yet", "the next encode of its picture"),
    "mask": Kind("a record's attention mask is wrong", FIX),
    "claim": Kind("a record lists an output that is not there", FIX),
    "unrecorded": Kind("outputs without a record", FIX),
    "temporary": Kind("left behind by a killed process", FIX),
    "stage1": Kind("a Stage 1 record, with its embedding inline", MIGRATE),
    "orphan": Kind("belongs to no picture", PRUNE),
    "link": Kind("a link that leads to nothing", PRUNE),
    "outdated": Kind("the collection has other pictures there now", ENCODE),
    "incomplete": Kind("pictures are still to be encoded", ENCODE),
    "classes": Kind("a class without a picture", "encode retry_quarantined=true"),
}
"""In the order in which they are shown."""

ARRAYS = frozenset({"missing", "unreadable", "shape", "size", "changed", "zeros", "non-finite", "unlisted"})
"""Kinds that cost a picture its output of one encoder."""

SHARDS = ARRAYS | {"ledger", "keys", "labels"}
"""Kinds that cost a shard."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: one of `KINDS`.
        path: the file that it is about.
        detail: what is wrong, in a few words.
        encoder, key: whose output of which picture, or which shard's file; None where that means nothing.
    """

    kind: str
    path: str
    detail: str
    encoder: str | None = None
    key: str | None = None
