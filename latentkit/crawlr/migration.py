"""Stage 1 to Stage 2: embeddings leave the records for `.npy`, each read back before its record changes.

The order on the disk: contracts, arrays, ledger lines, the backup, and at last the new records. A kill at any
point leaves the old records as they were, and the same command goes on.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from rich.console import Console

from latentkit.crawlr.migrated import Migrated
from latentkit.crawlr.stage1 import (
    CONTRACTS,
    Field,
    array_facts,
    inline_embedding,
    parse_embedding,
    parse_line,
    stage2_line,
)
from latentkit.crawlr.survey import Row, Survey
from latentkit.errors import LatentkitError, UsageError
from latentkit.prediction.plan import check_room
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.source import Fingerprint
from latentkit.stores import NpyStore
from latentkit.stores.arrays import npy_publication
from latentkit.stores.contract_file import contract_record
from latentkit.stores.ledger import done_ledger, done_line, fold_done, publish_lines
from latentkit.stores.storage import publish, publish_json, publish_many, sync_folder

BATCH = 256
"""Records that share a sync of their arrays."""

_BLOCKS = 8192  # what a file of 4,224 bytes takes on a disk
_UNKNOWN = Fingerprint("")  # no picture is known that these numbers were made from


class _Record(NamedTuple):
    """A record in hand; the fields of one that is settled are not parsed."""

    key: str
    row: Row
    raw: bytes
    fields: dict[str, Field]


class _StopError(Exception):
    """The user asked for an end."""


def require_records(store: NpyStore) -> None:
    """Raise UsageError unless the store has a records file."""
    if not (path := Path(store.root, store.records)).is_file():
        raise UsageError(f"{path} is not there: give output_dir=FOLDER, where the records lie")


def migrate(store: NpyStore, console: Console, *, dry_run: bool = False) -> Migrated:
    """Bring a library's records to Stage 2. The caller holds the output's lock, unless this is a dry run.

    Args:
        store: where the records and arrays lie.
        console: for the progress.
        dry_run: count only, change nothing.

    Raises:
        LatentkitError: one line: no room, the disk is full, a contract is damaged ... The records did not
            change, and the same command goes on.
    """
    if not dry_run:
        store.repair()
    survey = Survey(store)
    asked: list[bool] = []
    with Interrupts(lambda: asked.append(True)):
        try:
            with ProgressReport("reading", None, console, things="lines") as progress:
                found = survey.read(lambda: _advance(progress, asked))
            if not dry_run:
                _Migration(Path(store.root), survey, found).run(console, asked)
        except _StopError:
            return Migrated(interrupted=True)
    return found


def _advance(progress: ProgressReport, asked: list[bool], count: int = 1) -> None:
    progress.advance(count)
    if asked:
        raise _StopError


class _Migration:
    def __init__(self, root: Path, survey: Survey, found: Migrated) -> None:
        self._root = root
        self._survey = survey
        self._found = found

    def run(self, console: Console, asked: list[bool]) -> None:
        survey, found = self._survey, self._found
        if survey.changes:
            check_room(self._root, survey.bytes + _BLOCKS * found.moved)
        for name, folder in found.unrecorded.items():
            if name not in survey.claimed:
                publish_json(folder / "contract.json", contract_record(CONTRACTS[name]))
        if not survey.changes:
            return
        survey.damage.report(keep_cut=True)
        with (
            survey.path.open("rb") as file,
            ProgressReport("migrate", found.records, console, things="records") as progress,
        ):
            publish_lines(survey.path, self._lines(file, progress, asked))

    def _lines(self, file: BinaryIO, progress: ProgressReport, asked: list[bool]) -> Iterator[bytes]:
        """The new records by image id; when the last has been given, all that they mention is on the disk."""
        survey = self._survey
        begun = os.fstat(file.fileno())
        keys = sorted(survey.rows)
        for start in range(0, len(keys), BATCH):
            batch = [self._record(file, key) for key in keys[start : start + BATCH]]
            self._publish(file, batch)
            for record in batch:
                stays = record.row.settled or (
                    record.row.embedding is None and inline_embedding(record.fields) is not None
                )
                encoders = survey.encoders(record.key)
                yield record.raw if stays else stage2_line(record.key, record.fields, encoders)
            _advance(progress, asked, len(batch))
        fold_done(self._root)
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (begun.st_size, begun.st_mtime_ns):
            raise LatentkitError(f"{survey.path} was changed by another program meanwhile: start again")
        self._found.backup = _back_up(survey.path)

    def _record(self, file: BinaryIO, key: str) -> _Record:
        row = self._survey.rows[key]
        raw = _line_at(file, row.offset)
        return _Record(key, row, raw, {} if row.settled else parse_line(raw))

    def _publish(self, file: BinaryIO, batch: list[_Record]) -> None:
        """Arrays first, then what the ledger says of them and of those that were there."""
        survey = self._survey
        arrays: dict[str, np.ndarray] = {}
        entries: dict[str, dict[str, dict[str, Field]]] = {name: {} for name in CONTRACTS}
        for key, row, _, fields in batch:
            for name in row.enters:
                entries[name][key] = fields
            if row.embedding is not None and "dinov3" not in survey.recorded:
                if key not in survey.there["dinov3"]:
                    arrays[key] = _embedding(file, row, fields)
                if key not in survey.done["dinov3"]:
                    entries["dinov3"][key] = fields
        publish_many([npy_publication(survey.array("dinov3", key), arrays[key])[0] for key in arrays])
        for key, array in arrays.items():
            if not np.array_equal(survey.embedding(key), array):
                raise LatentkitError(f"{survey.array('dinov3', key)} reads back differently: start again")
        for name, records in entries.items():
            if records:
                lines = [self._done_line(name, key, fields) for key, fields in records.items()]
                done_ledger(self._root, name).add(lines)
                survey.done[name].update(records)

    def _done_line(self, name: str, key: str, fields: dict[str, Field]) -> bytes:
        facts = array_facts(name, fields, self._survey.shape(name, key))
        return done_line(key, _UNKNOWN, self._survey.array(name, key).stat().st_size, facts)


def _line_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline().rstrip(b"\r\n")


def _embedding(file: BinaryIO, row: Row, fields: dict[str, Field]) -> np.ndarray:
    if row.embedding is not None and row.embedding != row.offset:
        fields = parse_line(_line_at(file, row.embedding))
    return parse_embedding(inline_embedding(fields))


def _back_up(path: Path) -> Path:
    """``<path>.stage1``, or ``.stage1.2`` ... when an older migration's lies there; never written over."""
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}.stage1" + f".{number}" * (number > 1))
        if not backup.exists():
            break
        if backup.samefile(path) or filecmp.cmp(backup, path, shallow=False):
            return backup
    try:
        os.link(path, backup)
    except OSError:  # a file system without hard links
        with path.open("rb") as old:
            publish(backup, lambda file: shutil.copyfileobj(old, file))
    sync_folder(path.parent)
    return backup
