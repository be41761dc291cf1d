"""What generated pictures are compared with: other pictures, or statistics of them, kept so that they are
computed once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.sets.identity import file_identity
from latentkit.evaluation.sets.open import open_set
from latentkit.evaluation.sets.tensors import TensorRows
from latentkit.evaluation.statistics import is_statistics, publish_statistics, read_statistics
from latentkit.pixels.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference.

    Attributes:
        name: short, for tables.
        statistics: what is known already: name -> numbers, as metrics name them.
        pictures: for metrics that the statistics do not serve; None where only statistics are there.
        identity: JSON values: what they depend on.
        cache: where `keep` puts statistics; None where they cannot be kept.
        warnings: what a report has to say of it.
    """

    name: str
    statistics: Mapping[str, np.ndarray]
    pictures: PictureSet | None
    identity: Mapping[str, Any]
    cache: Path | None = None
    warnings: tuple[str, ...] = ()

    def keep(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Keep statistics of all its pictures for the next run, beside those that are kept already."""
        if self.cache is not None and statistics:
            publish_statistics(self.cache, statistics, self.identity)


def open_reference(
    reference: str | PictureSet,
    *,
    geometry: Geometry | None,
    extractors: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> Reference:
    """A reference, with the statistics of it that are kept.

    Args:
        reference: pictures; or a path: statistics (``.npz``: ours, ADM's, pytorch-fid's or clean-fid's), or
            pictures as `open_set` takes them.
        geometry: how pictures of files are cropped; and what statistics must have been made with, if that is
            recorded.
        extractors: name -> identity of this run's feature networks.
        folder: of kept statistics.

    Raises:
        UsageError: nothing that can be compared with is there.
        ContractError: statistics were made with another network or another crop; names the field.
        LatentkitError: statistics are damaged; or as `open_set`.
    """
    if isinstance(reference, str):
        path = Path(reference).expanduser()
        if is_statistics(path):
            return _of_statistics(path, geometry, extractors)
        reference = open_set(reference, None, geometry)
    if reference.latents is not None:
        raise UsageError(f"{reference.name} holds latents: a reference is pictures or statistics")
    identity = {"pictures": reference.identity(), "extractors": extractors}
    cache = cache_path(folder, reference.name, identity)
    statistics, warnings = _kept(cache, identity)
    writable = _is_writable(folder)
    if not writable:
        warnings += (f"{folder} cannot be written to: what is found out of the reference is not kept",)
    return Reference(
        name=reference.name,
        statistics=statistics,
        pictures=reference,
        identity=identity,
        cache=cache if writable else None,
        warnings=warnings,
    )


def cache_path(folder: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Where statistics are kept: ``<name>-<12 digits of the identity's sha256>.npz``."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode("ascii")).hexdigest()
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-") or "reference"
    return folder / f"{stem}-{digest[:12]}.npz"


def _kept(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Statistics that were kept, and warnings; what is not what its name says is left, to be written anew."""
    if not path.exists():
        return {}, ()
    try:
        statistics, whose = read_statistics(path)
    except LatentkitError as error:
        return {}, (f"{error}: computed anew",)
    if whose != json.loads(json.dumps(identity)):
        return {}, (f"{path} is of other pictures or networks than its name says: computed anew",)
    return statistics, ()


def _is_writable(folder: Path) -> bool:
    """Whether files can be put into a folder, or it can be made."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _of_statistics(
    path: Path, geometry: Geometry | None, extractors: Mapping[str, Mapping[str, Any]]
) -> Reference:
    statistics, recorded = read_statistics(path)
    warnings: tuple[str, ...] = ()
    if recorded is None:
        warnings = (f"{path.name} does not record which network and which crop its statistics are of",)
    else:
        _check_recorded(path, recorded, geometry, extractors)
    pictures = TensorRows(path, None) if _holds_pictures(path) else None
    identity = recorded or {"file": path.name} | file_identity(path)
    return Reference(
        name=path.name, statistics=statistics, pictures=pictures, identity=identity, warnings=warnings
    )


def _holds_pictures(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as file:
        return "arr_0" in file.files


def _check_recorded(
    path: Path,
    recorded: Mapping[str, Any],
    geometry: Geometry | None,
    extractors: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise ContractError, which names the field, where statistics are not of this run's networks or crop."""
    pairs: list[tuple[str, Any, Any]] = [
        (f"extractors.{name}", recorded.get("extractors", {}).get(name), asked)
        for name, asked in extractors.items()
    ]
    crop = (recorded.get("pictures") or {}).get("geometry")
    pairs.append(("geometry", crop, None if geometry is None else geometry.describe()))
    for where, have, asked in pairs:
        if have is None or asked is None:
            continue
        there, here = dict(_leaves(have, where)), dict(_leaves(json.loads(json.dumps(asked)), where))
        for field in sorted(there.keys() | here.keys()):
            if there.get(field) != here.get(field):
                raise ContractError(
                    f"{path}: its statistics were made with {field} = {there.get(field)!r}, this run uses "
                    f"{here.get(field)!r}: give the same settings, or the pictures in place of statistics"
                )


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner, below in value.items():
            yield from _leaves(below, f"{name}.{inner}")
    else:
        yield name, value
