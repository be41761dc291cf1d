"""Where the archives are on this machine, and what a file looks like that is not the official archive."""

import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from latentkit.errors import UsageError
from latentkit.imagenet.reading import BLOCK, CutError, ForeignError, TarError, members
from latentkit.sources import files
from latentkit.sources.imagenet.official import CLASS_TAR, VAL_PICTURE, Official

ROLES = ("devkit", "val", "train")
"""In the order in which they are read: the smallest first, and the labels before what they are for."""

MOST_HEADERS = 60_000

_BLURRED = "_blurred/"
"""In every name of the face-blurred variant: ``val_blurred/n01440764/ILSVRC2012_val_00000293.jpg``."""
_TEST = "ILSVRC2012_test_"
_TREE = re.compile(r"\b(ILSVRC|CLS-LOC|train|val|n\d{8})/")
"""In names of an extracted tree: ``ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG``."""


def no_tar(path: Path) -> str | None:
    """What a file is that is no tar at all, by its first bytes; None when it may be one."""
    with files.opened_file(path, follow=True) as descriptor:
        head = os.pread(descriptor, BLOCK, 0)
    text = head.lstrip().lower()
    if not head:
        return "an empty file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page, such as a login or error page"
    if head.startswith(b"\x1f\x8b"):
        return _gzipped(path)
    for magic, kind in ((b"PK\3\4", "a zip file"), (b"BZh", "a bzip2 file"), (b"\xfd7zXZ", "an xz file")):
        if head.startswith(magic):
            return kind
    return None if head[257:262] == b"ustar" or not any(head[257:263]) else "no tar"


def _gzipped(path: Path) -> str:
    """What a gzip file is, by the first name in it."""
    try:
        with gzip.open(path) as file:
            name = file.read(BLOCK)[:100].partition(b"\0")[0].decode("ascii")
    except (OSError, EOFError, ValueError, zlib.error):
        name = ""
    if _BLURRED in name:
        return f"the face-blurred variant ({name}), which is another data set"
    return f"a gzip file that holds {name}" if name.isprintable() and name else "a gzip file"


class Look(NamedTuple):
    """What a file looks like, in words, and whether it could be used all the same."""

    text: str
    usable: bool = False


def looks_like(path: Path, role: str, official: Official) -> Look:
    """What a file that is not the official archive of a split looks like, from its outermost headers."""
    instead = f"download {official.filename} while logged in to image-net.org"
    unpack = "unpack it for dataset=imagenet_tree, or "
    if (other := no_tar(path)) is not None:
        return Look(f"{other}: {unpack if _TREE.search(other) else ''}{instead}")
    kinds, foreign, fault = _outline(path)
    if _BLURRED in foreign:
        return Look(f"the face-blurred variant ({foreign}), which is another data set: {instead}")
    if _TEST in foreign:
        return Look(f"the test pictures ({foreign}), which have no labels: {instead}")
    other_role, things = ("val", "classes") if role == "train" else ("train", "pictures")
    there, wanted = kinds[role], getattr(official, things)
    if kinds[other_role] > there:
        return Look(f"the archive of the other split: give it as archives.{other_role}")
    if there > wanted:
        return Look(f"a larger set, such as ImageNet-21k: {there:,} {things}, not {wanted:,}", True)
    if foreign:
        way_out = f"{unpack if _TREE.search(foreign) else ''}{instead}"
        return Look(f"an archive that was packed anew ({foreign}): {way_out}")
    if isinstance(fault, CutError):
        lacking = official.size - path.stat().st_size
        missing = f", {lacking:,} bytes are missing" if lacking > 0 else ""
        return Look(f"a cut download ({fault}{missing}): download it again")
    if fault is not None:
        return Look(f"a damaged file ({fault}): download it again")
    if there < wanted:
        return Look(f"a part of it: {there:,} of {wanted:,} {things}", True)
    return Look("the right names with other contents: packed anew, or the face-blurred variant", True)


def _outline(path: Path) -> tuple[Counter[str], str, TarError | None]:
    """(role -> how many outermost members are its, the first of no role, where the tar breaks off)."""
    kinds: Counter[str] = Counter()
    foreign, fault = "", None
    with files.opened_file(path, follow=True) as descriptor:
        size = files.stat_of(descriptor).size
        headers = members(lambda at: os.pread(descriptor, BLOCK, at), 0, size, "the archive")
        try:
            for member in islice(headers, MOST_HEADERS):
                if CLASS_TAR.fullmatch(member.name):
                    kinds["train"] += 1
                elif VAL_PICTURE.fullmatch(member.name):
                    kinds["val"] += 1
                else:
                    foreign = foreign or f"it holds {member.name}"
        except ForeignError as error:
            foreign = foreign or str(error)
        except TarError as error:
            fault = error
    return kinds, foreign, fault


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
        name = given.get(role)
        path = _look(folder, role, official[role]) if name is None else _given(role, name, official[role])
        if path is not None:
            if not os.access(path, os.R_OK):
                raise UsageError(f"{files.printable(path)} may not be read: change its permissions")
            found[role] = path
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
