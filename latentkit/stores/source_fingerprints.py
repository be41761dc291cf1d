"""What the outputs of an encoder were made from, whichever store holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from latentkit.sources.source import Fingerprint
from latentkit.stores.ledger import read_done
from latentkit.stores.sidecar import read_entries, sidecars


def read_source_fingerprints(root: Path, encoder: str) -> Iterator[tuple[str, Fingerprint]]:
    """Key and fingerprint of every picture of which it is recorded, changing nothing.

    Args:
        root: the output folder, whose ``.latentkit`` holds the ledgers; there may be none.
        encoder: its public name.
    """
    for path in sidecars(root, encoder):
        for key, made_from in read_entries(path) or ():
            if made_from is not None:
                yield key, made_from
    for key, done in read_done(root, encoder).items():
        yield key, done.source
