"""Where the archives are on this machine."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from latentkit.errors import UsageError
from latentkit.sources import files
from latentkit.sources.imagenet.official import Official

ROLES = ("devkit", "val", "train")
"""In the order in which they are read: the smallest first, and the labels before what they are for."""


def find_archives(
    folder: Path, given: Mapping[str, str | None], official: Mapping[str, Official]
) -> dict[str, Path]:
    """Role -> path, of those that are there.

    ``NAME.tar``, ``NAME.tar.1`` and ``NAME (1).tar`` are names of one archive. Of several the one that has
    the official size is taken.

    Args:
        folder: where to look.
        given: role -> path that was given, None to look for it.

    Raises:
        UsageError: a path that was given leads to no file, one cannot be told from another, or none is there.
    """
    found: dict[str, Path] = {}
    for role in ROLES:
        path = given.get(role)
        there = _look(folder, role, official[role]) if path is None else _given(role, path, official[role])
        if there is not None:
            found[role] = there
    for archive in found.values():
        if not os.access(archive, os.R_OK):
            raise UsageError(f"{files.printable(archive)} may not be read: change its permissions")
    if not found:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"archives.folder={folder} is a file: give archives.train=FILE")
        names = ", ".join(official[role].filename for role in ROLES)
        raise UsageError(
            f"no ImageNet archive in {files.printable(folder)}: expected {names} from image-net.org, "
            "or give archives.train=FILE archives.val=FILE archives.devkit=FILE"
        )
    return found


def _given(role: str, given: str, official: Official) -> Path:
    path = Path(given).expanduser()
    if path.is_dir():
        raise UsageError(
            f"archives.{role}={given} is a folder: give the file {official.filename} in it, "
            f"or archives.folder={given}"
        )
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"archives.{role}={given} {what}: expected {official.filename}")
    return path


def _look(folder: Path, role: str, official: Official) -> Path | None:
    stem, tar, gz = official.filename.partition(".tar")
    name = re.compile(rf"{re.escape(stem)}(?: ?\(\d+\))?{re.escape(tar + gz)}(?:\.\d+)?")
    there = folder.iterdir() if folder.is_dir() else ()
    candidates = sorted(path for path in there if name.fullmatch(path.name))
    whole = [path for path in candidates if path.is_file() and path.stat().st_size == official.size]
    if len(candidates) > 1 and not whole:
        names = ", ".join(files.printable(path.name) for path in candidates)
        raise UsageError(f"{files.printable(folder)} holds {names}: give archives.{role}=FILE")
    return next(iter(whole or candidates), None)
