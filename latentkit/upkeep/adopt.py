"""Adopting: the user says that arrays without a known origin are what an encoder would make now.

First the ledger is published anew, with what each adopted array's picture or caption is now and without all
others; then the asked contract in place of the old. Until then the folder counts as unrecorded, and after a
kill the same command does the same.
"""

import hashlib
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
from latentkit.stores.ledger import done_ledger, done_line, publish_lines, read_facts
from latentkit.stores.npy import NpyStore, array_path
from latentkit.stores.storage import publish_json
from latentkit.upkeep.verification import in_threads


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
    geometry, folders = encoder.geometry, store.output_folders(encoder.name, asked)

    def line(candidate: tuple[str, dict[str, Any]]) -> bytes | None:
        """The ledger line of an array that is adopted."""
        key, facts = candidate
        try:
            for output, folder in folders.items():
                declared = asked.outputs[output]
                if geometry is not None and "width" in facts:
                    sides = geometry.shape(facts["width"], facts["height"])
                    declared = {**declared, "shape": resolve_shape(declared["shape"], *sides)}
                if not np.isfinite(read_npy(array_path(folder, key), declared)).all():
                    return None
            if geometry is None:
                caption = source[indices[key]].caption
                made_from = None if caption is None else caption_fingerprint(caption)
            else:
                data, stat = source.read(indices[key])
                made_from = Fingerprint(hashlib.sha256(data).hexdigest(), stat)
        except (LatentkitError, SourceError, DecodeError):
            return None
        return done_line(key, made_from, known[key].bytes, facts) if made_from else None

    root, lines = Path(store.root), []
    candidates = [(key, facts) for key, _, facts in read_facts(root, encoder.name) if key in indices]
    with ProgressReport(f"adopting {encoder.name}", len(indices), console, things="arrays") as progress:
        for _, adopted in in_threads(line, candidates):
            lines += [adopted] if adopted else []
            progress.advance()
    publish_lines(done_ledger(root, encoder.name).path, lines)
    note = {"arrays": len(lines), "time": utc_now()}
    publish_json(store.contract_files(encoder.name)[0], contract_record(asked) | {"adopted": note})
    console.print(f"{encoder.name}: {len(lines):,} of {len(known):,} arrays adopted")
