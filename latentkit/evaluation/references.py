"""What generated pictures are compared with: other pictures, or statistics of them, kept so that they are
computed once.

Kept statistics lie in a folder, one file for each combination of networks: those of FID serve whatever other
networks a run has.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.compatibility import AsTheyAre, check_statistics
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.sets.tensor_files import file_identity
from latentkit.evaluation.sets.tensors import TensorRows
from latentkit.evaluation.statistics import (
    COUNT,
    PICTURE_SIZE,
    holds_pictures,
    publish_statistics,
    read_statistics,
)
from latentkit.pixels.geometry import Geometry
from latentkit.stores.storage import make_folder, remove_temporaries

LOCK = ".lock"
_PATIENCE = 60.0
"""Seconds; others hold the lock while they write one file."""

_LONGEST = 200
"""Bytes of a reference's name in a file's; file systems take 255 in all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptFile:
    """A file of kept statistics.

    Attributes:
        path: ``<name>-<12 digits of the identity's sha256>.npz``.
        identity: JSON values: what they depend on, ``pictures`` and ``extractors``.
        names: of the statistics that go there.
    """

    path: Path
    identity: Mapping[str, Any]
    names: Collection[str]

    def read(self) -> dict[str, np.ndarray]:
        """What is kept. Raises LatentkitError where that is not what its name says."""
        if not os.access(self.path, os.F_OK):
            return {}
        statistics, whose = read_statistics(self.path, self.names)
        if whose != json.loads(json.dumps(self.identity)):
            raise LatentkitError(f"{self.path} is of other pictures or networks than its name says")
        return statistics


@dataclass(kw_only=True)
class Reference:
    """A reference.

    Attributes:
        name: short, for tables.
        pictures: for metrics that the statistics do not serve; None where only statistics are there.
        identity: JSON values: what they depend on, ``pictures`` and ``extractors``; where that is not
            recorded, the file, and its ``pictures`` if it holds some.
        statistics: what is known already: name -> numbers, as metrics name them.
        kept: where `keep` puts statistics; empty where they cannot be kept.
        warnings: what a report has to say of it.
        found: statistics that this run has added.
    """

    name: str
    pictures: PictureSet | None
    identity: Mapping[str, Any]
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    kept: list[KeptFile] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    found: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def recorded(self) -> bool:
        """Whether the identity says which networks and pictures the statistics are of.

        Where it does not, statistics that are written under it would look as if somebody knew.
        """
        return "extractors" in self.identity

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures; None where there are several sizes, or it is unknown."""
        if PICTURE_SIZE in self.statistics:
            height, width = self.statistics[PICTURE_SIZE].tolist()
            return (height, width) if height else None
        match self.identity.get("pictures"):
            case {"geometry": {"size": int(side)}}:
                return side, side
            case {"size": [int(height), int(width)]}:
                return height, width
        return None

    @property
    def count(self) -> int | None:
        """Of the pictures; None where statistics do not say (ADM's file holds a part of theirs)."""
        if self.recorded and self.pictures is not None:
            return len(self.pictures)
        return int(self.statistics[COUNT]) if COUNT in self.statistics else None

    def use(self, file: KeptFile) -> None:
        """Add what a file has already, and put there what is found out.

        What is not what its name says is computed anew, and then replaced.
        """
        self.kept.append(file)
        try:
            found = file.read()
        except LatentkitError as error:
            self.warnings.append(f"{error}: computed anew")
            return
        if not self.recorded:
            found.pop(COUNT, None)  # ADM's file has statistics of more pictures than lie in it
        self.statistics = {**found, **self.statistics}

    def keep(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Keep statistics of all its pictures for the next run, beside those that are kept already.

        Evaluations that do so at one time wait for each other; where nothing can be locked the log says so. A
        full disk is no reason to lose the results: it is a warning.
        """
        self.found.update(statistics)
        for file in self.kept:
            chosen = {name: array for name, array in statistics.items() if name in file.names}
            if not chosen:
                continue
            chosen |= {name: statistics[name] for name in (COUNT, PICTURE_SIZE) if name in statistics}
            try:
                with _alone_in(file.path.parent):
                    publish_statistics(file.path, chosen, file.identity)
            except LatentkitError as error:
                self.warnings.append(f"what was found out of the reference is not kept: {error}")

    def check_saving(self, path: Path) -> None:
        """Raise UsageError where `save` would replace other statistics, or the origin is not recorded."""
        if not self.recorded:
            raise UsageError(
                f"save_reference: {self.name} does not record what its statistics are of: copy the file"
            )
        if path.exists() and read_statistics(path, ())[1] != json.loads(json.dumps(self.identity)):
            raise UsageError(
                f"save_reference={path}: it holds statistics of other pictures or networks: give another file"
            )

    def save(self, path: Path) -> None:
        """Publish what this run knows, and has found out by now, in a file that `check_saving` has passed.

        Raises:
            LatentkitError: one line that says why it cannot be written.
        """
        kept_there = path.resolve().parent in {file.path.resolve().parent for file in self.kept}
        with _alone_in(path.parent) if kept_there else nullcontext():
            publish_statistics(path, {**self.statistics, **self.found}, self.identity)


def open_reference(
    reference: Path | PictureSet,
    *,
    geometry: Geometry | AsTheyAre | None,
    orient: bool | None = None,
    extractors: Mapping[str, Mapping[str, Any]],
    folder: Path,
    needed: Mapping[str, Collection[str]],
) -> Reference:
    """A reference, with the statistics of it that are kept.

    Args:
        reference: pictures; or the file of statistics (``.npz``: ours, ADM's, pytorch-fid's or clean-fid's).
        geometry: what statistics must have been made with, if that is recorded. None: nobody asked, they may
            be of any.
        orient: whether statistics must be of pictures in their EXIF orientation, if that is recorded; None:
            nobody asked.
        extractors: name -> identity of this run's feature networks.
        folder: of kept statistics.
        needed: name of a statistic that metrics need -> the extractors that it is of; no other is read.

    Raises:
        ContractError: statistics were made with another network, crop or orientation; names the field.
        LatentkitError: statistics are damaged.
    """
    if isinstance(reference, PictureSet):
        whose = {"pictures": reference.identity, "extractors": extractors}
        opened = Reference(name=reference.name, pictures=reference, identity=whose)
    else:
        statistics, recorded = read_statistics(reference, needed)
        if recorded is not None:
            check_statistics(reference, recorded, geometry, orient, extractors)
            for name, of in needed.items():
                if not recorded["extractors"].keys() >= {*of}:  # they are of what its metric does not read
                    statistics.pop(name, None)
            return Reference(name=reference.name, pictures=None, identity=recorded, statistics=statistics)
        pictures = TensorRows(reference, None) if holds_pictures(reference) else None
        of_file = {"pictures": pictures.identity} if pictures else file_identity(reference)
        opened = Reference(
            name=reference.name,
            pictures=pictures,
            identity={"file": reference.name} | of_file,
            statistics=statistics,
            warnings=[f"{reference.name} does not record which network and which crop its statistics are of"],
        )
    if opened.pictures is None:
        return opened
    identity = opened.pictures.identity
    for networks in sorted({tuple(sorted(of)) for of in needed.values()}):
        whose = {"pictures": identity, "extractors": {name: extractors[name] for name in networks}}
        names = [statistic for statistic, of in needed.items() if {*of} == {*networks}]
        opened.use(KeptFile(_kept_path(folder, opened.name, whose), whose, names))
    if not _is_writable(folder):
        lost = f"{folder} cannot be written to: what is found out of the reference is not kept"
        opened.warnings.append(lost)
        opened.kept.clear()
    return opened


def _kept_path(folder: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Long names are cut."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode("ascii")).hexdigest()
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-") or "reference"
    stem = stem.encode()[:_LONGEST].decode(errors="ignore")
    return folder / f"{stem}-{digest[:12]}.npz"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time adds to kept statistics; the first thing is to remove what killed ones left.

    Where the lock cannot be had, it goes on without, and the log says so.
    """
    make_folder(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / LOCK, timeout=_PATIENCE))
            remove_temporaries(folder, below=False)
        except (OSError, NotImplementedError, LatentkitError) as error:
            _log.warning("%s: %s: what two evaluations add there at one time may be lost", folder, error)
        yield


def _is_writable(folder: Path) -> bool:
    """Whether files can be put into a folder, or it can be made."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.access(place, os.F_OK))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
