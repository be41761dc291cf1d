"""Files of reference statistics: ``.npz`` with the names of ADM's evaluator, and what they were made from.

``mu`` [2048] and ``sigma`` [2048, 2048] are FID's; with a suffix (``mu_s``, ``sigma_s``) another metric's.
``count`` is of the pictures; ``picture_size``, int64 [2], their height and width, zeros where they have
several.
``identity``, which only our own files have, is JSON text: ``pictures`` (`PictureSet.identity`) and
``extractors`` (name -> `Encoder.identity`).
"""

import contextlib
import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentkit.errors import LatentkitError, one_line
from latentkit.evaluation.sets.tensor_files import DAMAGED
from latentkit.stores.storage import publish

IDENTITY = "identity"
COUNT, PICTURE_SIZE = "count", "picture_size"
_PICTURES = "arr_"
_MEAN, _COVARIANCE = "mu", "sigma"
_ASYMMETRY = 1e-6
"""How far a covariance may be from symmetric, relative to its largest entry."""


def is_statistics(path: Path) -> bool:
    """Whether a file is an ``.npz`` that has statistics in it, by the names alone."""
    return not _names(path).isdisjoint({_MEAN, _COVARIANCE, IDENTITY})


def is_own(path: Path) -> bool:
    """Whether `publish_statistics` wrote a file, by the names alone."""
    return IDENTITY in _names(path)


def holds_pictures(path: Path) -> bool:
    """Whether an ``.npz`` has pictures in it, by the names alone."""
    return f"{_PICTURES}0" in _names(path)


def _names(path: Path) -> set[str]:
    """Of the arrays in an ``.npz``; none in anything else."""
    if path.suffix == ".npz":
        with contextlib.suppress(*DAMAGED), zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    return set()


def read_statistics(
    path: Path, names: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """What is in a file of statistics, but pictures, and what it was made from; None: not recorded.

    Args:
        names: to be read, with ``count`` and ``picture_size``, where they are there; None: all.

    Raises:
        LatentkitError: it is damaged, holds objects, or what it holds are no statistics.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            there = {name for name in file.files if not name.startswith(_PICTURES)} - {IDENTITY}
            wanted = there if names is None else there & {*names, COUNT, PICTURE_SIZE}
            arrays = {name: file[name] for name in sorted(wanted)}
            recorded = IDENTITY in file.files
            identity = json.loads(str(file[IDENTITY])) if recorded else None
        for part in ("pictures", "extractors") if recorded else ():
            if not (isinstance(identity, dict) and isinstance(identity.get(part), dict)):
                raise ValueError("its identity has no pictures and extractors")
        _check(arrays, there)
    except DAMAGED as error:
        raise LatentkitError(f"{path} cannot be used as statistics: {one_line(error)}") from None
    return arrays, identity


def publish_statistics(path: Path, statistics: Mapping[str, np.ndarray], identity: Mapping[str, Any]) -> None:
    """Publish statistics; others of the same identity that the file has already stay in it.

    The bytes follow from names, numbers and identity alone.

    Args:
        path: the file's final name, ``.npz``.
        statistics: name -> numbers; finite.
        identity: JSON values: ``pictures`` and ``extractors``.

    Raises:
        LatentkitError: they are no statistics; or one line that says why they cannot be written.
    """
    text = json.dumps(identity, sort_keys=True)
    there: dict[str, np.ndarray] = {}
    with contextlib.suppress(LatentkitError):
        found, whose = read_statistics(path)
        there = found if whose == json.loads(text) else {}
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in {**there, **statistics}.items()}
    try:
        _check(arrays, arrays.keys())
    except ValueError as error:
        raise LatentkitError(f"{path}: {error}, it is not written") from None
    arrays[IDENTITY] = np.array(text)

    def validate(file: BinaryIO) -> None:
        with zipfile.ZipFile(file) as written:  # in pieces, by its checksums: features may be large
            if (damaged := written.testzip()) is not None:
                raise ValueError(f"{damaged} reads back differently")

    publish(path, lambda file: np.savez(file, **dict(sorted(arrays.items()))), validate)


def _check(arrays: Mapping[str, np.ndarray], there: Collection[str]) -> None:
    """Raise ValueError unless all are finite numbers, and means and covariances fit each other.

    Args:
        there: what the file has, read or not.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{name} is {array.dtype}, not numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
        if name == PICTURE_SIZE and (
            array.dtype != np.int64 or array.shape != (2,) or array.min() < bool(array.any())
        ):
            raise ValueError(f"{name} is {array.dtype} {array.tolist()}, not int64 [height, width]")
        if name == COUNT and (array.dtype.kind not in "iu" or array.shape != () or array < 1):
            raise ValueError(f"{name} is {array.dtype} {array.tolist()}, not the number of pictures")
        stem, mark, suffix = name.partition("_")
        if stem in (_MEAN, _COVARIANCE):
            other = (_COVARIANCE if stem == _MEAN else _MEAN) + mark + suffix
            if other not in there:
                raise ValueError(f"it has {name} and no {other}")
            if stem == _MEAN and other in arrays:
                _check_pair(array, arrays[other], name, other)


def _check_pair(mu: np.ndarray, sigma: np.ndarray, mean: str, covariance: str) -> None:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{mean} is {list(mu.shape)} and {covariance} is {list(sigma.shape)}, not [d], [d, d]"
        )
    if np.abs(sigma - sigma.T).max(initial=0) > _ASYMMETRY * np.abs(sigma).max(initial=0):
        raise ValueError(f"{covariance} is not symmetric")
    if (np.diagonal(sigma) < 0).any():
        raise ValueError(f"{covariance} has a negative variance")
