"""Stage 1 to Stage 2: embeddings leave the records for `.npy`, each read back before its record changes.

The order on the disk: contracts, arrays, ledger lines, the backup, and at last the new records. A kill at any
point leaves the old records as they were, and the same command goes on.
"""

import filecmp
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console

from latentkit.crawlr.stage1 import CONTRACTS, parse_embedding, parse_line
from latentkit.crawlr.survey import Row, Survey
from latentkit.errors import LatentkitError
from latentkit.prediction.plan import check_room
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.runtime.readable import readable_count
from latentkit.sources.files import stat_of
from latentkit.sources.source import Fingerprint
from latentkit.stores import NpyStore
from latentkit.stores.arrays import npy_publication
from latentkit.stores.contract_file import contract_record
from latentkit.stores.ledger import done_ledger, done_line, fold_done, publish_lines
from latentkit.stores.records import INLINE
from latentkit.stores.storage import publish, publish_json, publish_many, sync_folder

BATCH = 256
"""Records that share a sync of their arrays."""

_SHOWN = 20
_BLOCKS = 8192  # what a file of 4,224 bytes takes on a disk
_UNKNOWN = Fingerprint("")  # no picture is known that these numbers were made from


class _StopError(Exception):
    """The user asked for an end."""


def migrate(store: NpyStore, console: Console, *, dry_run: bool = False) -> Outcome:
    """Bring a library's records to Stage 2, and say what was done; its counts and what was left out.

    The caller holds the output's lock, unless this is a dry run.

    Args:
        store: where the records and arrays lie.
        console: for people.
        dry_run: count only, change nothing.

    Raises:
        LatentkitError: one line: no room, the disk is full, a contract is damaged ... The records did not
            change, and the same command goes on.
    """
    interrupts = Interrupts()

    def counted(lines: Iterable[bytes], progress: ProgressReport) -> Iterator[bytes]:
        for line in lines:
            yield line
            progress.advance()
            if interrupts.asked:
                raise _StopError

    if not dry_run:
        store.repair()
    survey, root, backup = Survey(store), Path(store.root), None
    with interrupts, survey.path.open("rb") as file:
        try:
            with ProgressReport("reading", None, console, things="lines") as progress:
                survey.read(counted(file, progress))
            if survey.changes and not dry_run:
                check_room(root, survey.bytes + _BLOCKS * survey.moved)
            for name, folder in survey.unrecorded.items() if not dry_run else ():
                if name not in survey.claimed:
                    publish_json(folder / "contract.json", contract_record(CONTRACTS[name]))
            if survey.changes and not dry_run:
                survey.damage.report(keep_cut=True)
                backup = _backup_path(survey.path)
                with ProgressReport("migrate", len(survey.rows), console, things="records") as progress:
                    publish_lines(survey.path, counted(_lines(root, survey, file, backup), progress))
        except _StopError:
            console.print("interrupted: the records are as they were; the same command goes on")
            return Outcome(INTERRUPTED, {})
    for line in _report(survey, backup, dry_run=dry_run):
        console.print(line)
    status = QUARANTINED if survey.left or survey.unfit or survey.damage.lines else DONE
    return Outcome(status, survey.to_dict() | {"backup": str(backup) if backup else None})


def _lines(root: Path, survey: Survey, file: BinaryIO, backup: Path) -> Iterator[bytes]:
    """The new records by image id; when the last has been given, all that they mention is on the disk."""
    begun, rows = stat_of(file.fileno()), sorted(survey.rows.items())
    for start in range(0, len(rows), BATCH):
        batch = dict(rows[start : start + BATCH])
        _publish(root, survey, file, batch)
        for row in batch.values():
            yield _line_at(file, row.offset) if row.line is None else row.line
    fold_done(root)
    if stat_of(file.fileno()) != begun:
        raise LatentkitError(f"{survey.path} was changed by another program meanwhile: start again")
    _back_up(survey.path, backup)


def _publish(root: Path, survey: Survey, file: BinaryIO, rows: Mapping[str, Row]) -> None:
    """Arrays first, then what the ledger says of them and of those that were there."""
    arrays = {
        key: parse_embedding(parse_line(_line_at(file, row.embedding)).values[INLINE])
        for key, row in rows.items()
        if row.embedding is not None and "dinov3" not in survey.recorded and key not in survey.there["dinov3"]
    }
    publish_many([npy_publication(survey.array("dinov3", key), array)[0] for key, array in arrays.items()])
    for key, array in arrays.items():
        if not np.array_equal(survey.embedding(key), array):
            raise LatentkitError(f"{survey.array('dinov3', key)} reads back differently: start again")
    for name in CONTRACTS:
        lines = [
            done_line(key, _UNKNOWN, survey.array(name, key).stat().st_size, row.enters[name])
            for key, row in rows.items()
            if name in row.enters
        ]
        if lines:
            done_ledger(root, name).add(lines)


def _line_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline().rstrip(b"\r\n")


def _backup_path(path: Path) -> Path:
    """``<path>.stage1``, or ``.stage1.2`` ... where an older migration's lies there."""
    names = (f"{path.name}.stage1" + f".{number}" * (number > 1) for number in itertools.count(1))
    return next(
        backup
        for backup in map(path.with_name, names)
        if not backup.exists() or backup.samefile(path) or filecmp.cmp(backup, path, shallow=False)
    )


def _back_up(path: Path, backup: Path) -> None:
    if backup.exists():
        return
    try:
        os.link(path, backup)
    except OSError:  # a file system without hard links
        with path.open("rb") as old:
            publish(backup, lambda file: shutil.copyfileobj(old, file))
    sync_folder(path.parent)


def _report(survey: Survey, backup: Path | None, *, dry_run: bool) -> Iterator[str]:
    """What was found, and what to do next; `backup` is None when the records did not change."""
    moved = readable_count(survey.moved, "inline embedding")
    yield f"{readable_count(len(survey.rows), 'record')}: {moved} to files, {len(survey.left):,} left"
    if survey.dropped:
        yield (
            f"{len(survey.dropped):,} of them cannot be used: dropped, the encoder's own are there; "
            "the old records keep them"
        )
    if entered := survey.entered:
        counts = ", ".join(f"{count:,} of {name}" for name, count in sorted(entered.items()))
        yield f"arrays that were there: {counts}"
    if bad := len(survey.damage.lines):
        yield f"{readable_count(bad, 'bad line')}, kept aside in .bad"
    if survey.repeated:
        yield f"{readable_count(survey.repeated, 'line')} of an id that comes again: the last counts"
    yield from _first("stays at Stage 1", {f"line {n}": why for n, why in survey.left_lines.items()})
    if survey.left:
        yield "  for these: encode encoder=dinov3, then migrate again"
    yield from _first("left out", {str(path): why for path, why in survey.unfit.items()})
    if dry_run:
        yield "dry_run=true: nothing was touched"
        return
    yield f"the old records: {backup}" if backup else "the records did not change"
    if folders := survey.unrecorded:
        where = ", ".join(map(str, folders.values()))
        yield f"it is not recorded what made the arrays in {where}. When you encode next,"
        if others := ",".join(name for name in CONTRACTS if name not in folders):
            yield f'  "encoder=[{others}]" leaves them as they are'
        yield "  adopt=true accepts them as what the encoders would make"
        yield "  overwrite=true encodes them again"


def _first(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    for place, reason in list(reasons.items())[:_SHOWN]:
        yield f"{what}: {place}: {reason}"
    if len(reasons) > _SHOWN:
        yield f"{what}: {len(reasons) - _SHOWN:,} more"
