"""Adopting: arrays of which nobody recorded what made them become an encoder's own, because the user says so.

The order on the disk: ledger lines, batch by batch, with what each array's picture or caption is now; then
the ledger without all that was not adopted; then the asked contract in place of the old. Until then the
folder counts as unrecorded, and the same command goes on where a kill stopped it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from latentkit.encoders.contract import Contract, resolve_shape
from latentkit.encoders.encoder import Encoder
from latentkit.errors import LatentkitError
from latentkit.pixels import DecodeError
from latentkit.prediction.plan import caption_fingerprint
from latentkit.runtime.progress import ProgressReport
from latentkit.runtime.provenance import utc_now
from latentkit.sources.source import Fingerprint, Source, SourceError
from latentkit.stores.arrays import read_npy
from latentkit.stores.contract_file import contract_record
from latentkit.stores.ledger import (
    Done,
    done_ledger,
    done_line,
    read_done,
    read_facts,
)
from latentkit.stores.npy import NpyStore, array_path
from latentkit.stores.storage import publish_json

BATCH = 256
"""Arrays that share a sync of their ledger lines."""

_THREADS = 4


def adopt(
    store: NpyStore, encoder: Encoder, asked: Contract, source: Source, console: Console, *, dry_run: bool
) -> None:
    """Take an encoder's unrecorded arrays for what it would make now, where nothing speaks against it.

    An array is adopted when the ledger knows it, it has the shape and type that the encoder gives for its
    picture, is finite, and its picture (for text: caption) is there. All else will be encoded. The caller
    holds the output's lock, unless this is a dry run. Nothing happens when the folder has a contract that
    says what made its arrays, or one whose arrays could not be the encoder's.

    Args:
        store: where the arrays lie.
        encoder: whose they are to be.
        asked: its contract.
        source: the whole collection.
        console: says how many.
        dry_run: count only what the ledger knows and the collection has; read no array.

    Raises:
        LatentkitError: one line: the disk is full ... The same command goes on.
    """
    there = store.contract(encoder.name)
    if there is None or there.recorded or not there.fits(asked):
        return
    if not dry_run:
        store.repair()
    known = store.whole(encoder.name, there)
    indices = {key: index for index, key in enumerate(source.keys()) if key in known}
    if dry_run:
        console.print(f"{encoder.name}: at most {len(indices):,} arrays would be adopted, not encoded")
        return
    root = Path(store.root)
    ledger = done_ledger(root, encoder.name)
    adoption = _Adoption(store, encoder, asked, source)
    candidates = (
        (key, indices[key], known[key], facts)
        for key, _, facts in read_facts(root, encoder.name)
        if key in indices
    )
    adopted: set[str] = set()
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        ProgressReport(f"adopting {encoder.name}", len(indices), console, things="arrays") as progress,
    ):
        while batch := list(islice(candidates, BATCH)):
            lines = list(pool.map(adoption.line, batch))
            adopted.update(key for (key, *_), line in zip(batch, lines, strict=True) if line is not None)
            if new := [line for line in lines if line]:
                ledger.add(new)
            progress.advance(len(batch))
    ledger.fold()
    ledger.forget(read_done(root, encoder.name).keys() - adopted)
    note = {"arrays": len(adopted), "time": utc_now()}
    publish_json(store.contract_path(encoder.name), contract_record(asked) | {"adopted": note})
    console.print(f"{encoder.name}: {len(adopted):,} of {len(known):,} arrays adopted")


class _Adoption:
    def __init__(self, store: NpyStore, encoder: Encoder, asked: Contract, source: Source) -> None:
        self._folders = store.output_folders(encoder.name, asked)
        self._geometry = encoder.geometry
        self._asked = asked
        self._source = source

    def line(self, candidate: tuple[str, int, Done, dict[str, Any]]) -> bytes | None:
        """The ledger line of an array that is adopted, empty when it stands there already; else None."""
        key, index, entry, facts = candidate
        if self._stands(index, entry.source):
            return b""
        try:
            for output, folder in self._folders.items():
                declared = self._asked.outputs[output]
                shape = self._shape(declared["shape"], facts)
                array = read_npy(array_path(folder, key), {"shape": shape, "dtype": declared["dtype"]})
                if not np.isfinite(array).all():
                    return None
            source = self._fingerprint(index)
        except (LatentkitError, SourceError, DecodeError):
            return None
        return None if source is None else done_line(key, source, entry.bytes, facts)

    def _stands(self, index: int, before: Fingerprint) -> bool:
        """Whether an adoption that was killed came this far, and the picture is still the same."""
        if not before.sha256:
            return False
        if self._geometry is None:
            return before == self._fingerprint(index)
        return before.stat is not None and before.stat == self._source.stat(index)

    def _shape(self, declared: Sequence[int | str], facts: dict[str, Any]) -> Sequence[int | str]:
        if self._geometry is None or "width" not in facts:
            return declared
        return resolve_shape(declared, *self._geometry.shape(facts["width"], facts["height"]))

    def _fingerprint(self, index: int) -> Fingerprint | None:
        if self._geometry is None:
            caption = self._source[index].caption
            return None if caption is None else caption_fingerprint(caption)
        data, stat = self._source.read(index)
        return Fingerprint(hashlib.sha256(data).hexdigest(), stat)
