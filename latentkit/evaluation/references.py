"""What generated pictures are compared with: other pictures, or statistics of them, kept so that they are
computed once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.compatibility import AsTheyAre, check_recorded
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.sets.identity import file_identity
from latentkit.evaluation.sets.open import open_set
from latentkit.evaluation.sets.tensors import TensorRows
from latentkit.evaluation.statistics import PICTURE_SIZE, is_statistics, publish_statistics, read_statistics
from latentkit.pixels.geometry import Geometry
from latentkit.stores.storage import make_folder, remove_temporaries

LOCK = ".lock"
_PATIENCE = 60.0
"""Seconds; others hold the lock while they write one file."""

_LONGEST = 200
"""Bytes of a reference's name in a file's; file systems take 255 in all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference.

    Attributes:
        name: short, for tables.
        statistics: what is known already: name -> numbers, as metrics name them.
        pictures: for metrics that the statistics do not serve; None where only statistics are there.
        identity: JSON values: what they depend on, ``pictures`` and ``extractors``; of statistics of which
            nobody recorded it the file, and its ``pictures`` if it holds some.
        cache: where `keep` puts statistics; None where they cannot be kept.
        kept_as: what these depend on, where it is not `identity`: the pictures of a file whose statistics are
            of others.
        warnings: what a report has to say of it.
    """

    name: str
    statistics: Mapping[str, np.ndarray]
    pictures: PictureSet | None
    identity: Mapping[str, Any]
    cache: Path | None = None
    kept_as: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def recorded(self) -> bool:
        """Whether the identity says which networks and pictures the statistics are of.

        Where it does not, statistics that are written under it would look as if somebody knew.
        """
        return "extractors" in self.identity

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures; None where they have several sizes or nobody knows."""
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
    def several_sizes(self) -> bool:
        """Whether its statistics say that the pictures have several sizes."""
        return PICTURE_SIZE in self.statistics and not self.statistics[PICTURE_SIZE].any()

    def keep(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Keep statistics of all its pictures for the next run, beside those that are kept already.

        Evaluations that do so at one time wait for each other; where nothing can be locked the log says so.

        Raises:
            LatentkitError: one line that says why they cannot be written.
        """
        if self.cache is not None and statistics:
            with _alone_in(self.cache.parent):
                publish_statistics(self.cache, statistics, self.kept_as or self.identity)

    def check_saving(self, path: Path) -> None:
        """Raise UsageError where `save` would say what nobody knows, or replace another's statistics."""
        if not self.recorded:
            raise UsageError(
                f"save_reference: {self.name} is statistics of which nobody recorded what they were made "
                "from: copy the file"
            )
        if path.exists() and read_statistics(path, ())[1] != json.loads(json.dumps(self.identity)):
            raise UsageError(
                f"save_reference={path}: it holds statistics of other pictures or networks: give another file"
            )

    def save(self, path: Path, found: Mapping[str, np.ndarray]) -> None:
        """Publish what this run knows, and has found out by now, in a file that `check_saving` has passed.

        Raises:
            LatentkitError: one line that says why it cannot be written.
        """
        kept_there = self.cache is not None and path.resolve().parent == self.cache.resolve().parent
        with _alone_in(path.parent) if kept_there else nullcontext():
            publish_statistics(path, {**self.statistics, **found}, self.identity)


def open_reference(
    reference: str | PictureSet,
    *,
    geometry: Geometry | AsTheyAre | None,
    orient: bool | None = None,
    extractors: Mapping[str, Mapping[str, Any]],
    folder: Path,
    names: Collection[str] | None = None,
) -> Reference:
    """A reference, with the statistics of it that are kept.

    Args:
        reference: pictures; or a path: statistics (``.npz``: ours, ADM's, pytorch-fid's or clean-fid's), or
            pictures as `open_set` takes them.
        geometry: how picture files are cropped, and what statistics must have been made with, if that is
            recorded. None: nobody asked, pictures stay as they are, statistics may be of any.
        orient: whether statistics must be of pictures in their EXIF orientation, if that is recorded; None:
            nobody asked.
        extractors: name -> identity of this run's feature networks.
        folder: of kept statistics.
        names: of the statistics that metrics need; the others are not read. None: all.

    Raises:
        UsageError: nothing that can be compared with is there.
        ContractError: statistics were made with another network, crop or orientation; names the field.
        LatentkitError: statistics are damaged; or as `open_set`.
    """
    if isinstance(reference, str):
        path = Path(reference).expanduser()
        if is_statistics(path):
            return _of_statistics(path, names, geometry, orient, extractors, folder)
        reference = open_set(reference, None, geometry if isinstance(geometry, Geometry) else None)
    if reference.latents is not None:
        raise UsageError(f"{reference.name} holds latents: a reference is pictures or statistics")
    identity = {"pictures": reference.identity(), "extractors": extractors}
    cache, statistics, warnings = _cached(folder, reference.name, identity, names)
    return Reference(
        name=reference.name,
        statistics=statistics,
        pictures=reference,
        identity=identity,
        cache=cache,
        warnings=warnings,
    )


def cache_path(folder: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Where statistics are kept: ``<name>-<12 digits of the identity's sha256>.npz``; long names are cut."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode("ascii")).hexdigest()
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-") or "reference"
    stem = stem.encode()[:_LONGEST].decode(errors="ignore")
    return folder / f"{stem}-{digest[:12]}.npz"


def _cached(
    folder: Path, name: str, identity: Mapping[str, Any], names: Collection[str] | None
) -> tuple[Path | None, dict[str, np.ndarray], tuple[str, ...]]:
    """Where statistics are kept, None where they cannot be; those that are kept already, and warnings."""
    cache = cache_path(folder, name, identity)
    statistics, warnings = _kept(cache, identity, names)
    if _is_writable(folder):
        return cache, statistics, warnings
    unkept = f"{folder} cannot be written to: what is found out of the reference is not kept"
    return None, statistics, (*warnings, unkept)


def _kept(
    path: Path, identity: Mapping[str, Any], names: Collection[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Statistics that were kept, and warnings; what is not what its name says is left, to be written anew."""
    if not os.access(path, os.F_OK):
        return {}, ()
    try:
        statistics, whose = read_statistics(path, names)
    except LatentkitError as error:
        return {}, (f"{error}: computed anew",)
    if whose != json.loads(json.dumps(identity)):
        return {}, (f"{path} is of other pictures or networks than its name says: computed anew",)
    return statistics, ()


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


def _of_statistics(
    path: Path,
    names: Collection[str] | None,
    geometry: Geometry | AsTheyAre | None,
    orient: bool | None,
    extractors: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> Reference:
    statistics, recorded = read_statistics(path, names)
    if recorded is not None:
        check_recorded(path, recorded, geometry, orient, extractors)
        return Reference(name=path.name, statistics=statistics, pictures=None, identity=recorded)
    unknown = f"{path.name} does not record which network and which crop its statistics are of"
    if not _holds_pictures(path):
        identity = {"file": path.name} | file_identity(path)
        return Reference(
            name=path.name, statistics=statistics, pictures=None, identity=identity, warnings=(unknown,)
        )
    pictures = TensorRows(path, None)
    of_pictures = {"pictures": pictures.identity(), "extractors": extractors}
    cache, kept, warnings = _cached(folder, path.name, of_pictures, names)
    kept.pop("count", None)  # mu and sigma are of more pictures than lie in ADM's file, nobody knows how many
    return Reference(
        name=path.name,
        statistics={**kept, **statistics},
        pictures=pictures,
        identity={"file": path.name, "pictures": pictures.identity()},
        cache=cache,
        kept_as=of_pictures,
        warnings=(unknown, *warnings),
    )


def _holds_pictures(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as file:
        return "arr_0" in file.files
