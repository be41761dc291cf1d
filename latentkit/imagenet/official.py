"""The archives as image-net.org gives them out, and what other files look like."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latentkit.imagenet.tar import BLOCK, CutError, ForeignError, TarError, next_member
from latentkit.sources import files
from latentkit.sources.imagenet.names import VAL_PICTURE, WNID

ROLES = ("devkit", "val", "train")
"""In the order in which they are read: the smallest first, and the labels before what they are for."""

MOST_HEADERS = 60_000

_BLURRED = "_blurred/"
"""In every name of the face-blurred variant: ``val_blurred/n01440764/ILSVRC2012_val_00000293.jpg``."""
_TEST = "ILSVRC2012_test_"
_TREE = re.compile(r"\b(ILSVRC|CLS-LOC|train|val|n\d{8})/")
"""In names of an extracted tree: ``ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG``."""


@dataclass(frozen=True)
class Official:
    """What an archive has to be.

    Attributes:
        filename: as it is given out; suffixes that downloads add are found too.
        md5: as image-net.org publishes it.
        size: bytes.
        classes, pictures: in it; None for the devkit.
    """

    filename: str
    md5: str
    size: int
    classes: int | None = None
    pictures: int | None = None


OFFICIAL = {
    "devkit": Official("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf", 2568145),
    "val": Official("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6744924160, 1000, 50000),
    "train": Official(
        "ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147897477120, 1000, 1281167
    ),
}


def deviations(
    official: Official, size: int, md5: str, classes: int | None = None, pictures: int | None = None
) -> list[str]:
    """How a whole archive differs from the official one, in words; empty when it is that one."""
    found = []
    for what, there, wanted in (
        ("bytes", size, official.size),
        ("classes", classes, official.classes),
        ("pictures", pictures, official.pictures),
    ):
        if there is not None and wanted is not None and there != wanted:
            found.append(f"{there:,} {what}, not {wanted:,}")
    if md5 != official.md5:
        found.append(f"md5 {md5}, not {official.md5}")
    return found


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
    usable: bool


def looks_like(path: Path, role: str, official: Official) -> Look:
    """What a file that is not the official archive of a split looks like, from its outermost headers."""
    instead = f"download {official.filename} while logged in to image-net.org"
    unpack = "unpack it for dataset=imagenet_tree, or "
    if (other := no_tar(path)) is not None:
        return Look(f"{other}: {unpack if _TREE.search(other) else ''}{instead}", False)
    kinds, foreign, fault = _outline(path)
    if foreign is None and isinstance(fault, ForeignError):
        foreign = str(fault)
    if foreign is not None and _BLURRED in foreign:
        return Look(f"the face-blurred variant ({foreign}), which is another data set: {instead}", False)
    if foreign is not None and _TEST in foreign:
        return Look(f"the test pictures ({foreign}), which have no labels: {instead}", False)
    other_role = "val" if role == "train" else "train"
    if kinds[other_role] > kinds[role]:
        return Look(f"the archive of the other split: give it as archives.{other_role}", False)
    wanted, things = (official.classes, "classes") if role == "train" else (official.pictures, "pictures")
    if wanted is not None and kinds[role] > wanted:
        return Look(f"a larger set, such as ImageNet-21k: {kinds[role]:,} {things}, not {wanted:,}", True)
    if foreign is not None:
        way_out = f"{unpack if _TREE.search(foreign) else ''}{instead}"
        return Look(f"an archive that was packed anew ({foreign}): {way_out}", False)
    if isinstance(fault, CutError):
        lacking = official.size - path.stat().st_size
        missing = f", {lacking:,} bytes are missing" if lacking > 0 else ""
        return Look(f"a cut download ({fault}{missing}): download it again", False)
    if fault is not None:
        return Look(f"a damaged file ({fault}): download it again", False)
    if wanted is not None and kinds[role] < wanted:
        return Look(f"a part of it: {kinds[role]:,} of {wanted:,} {things}", True)
    return Look("the right names with other contents: packed anew, or the face-blurred variant", True)


def _outline(path: Path) -> tuple[Counter[str], str | None, TarError | None]:
    """(role -> outermost members that are named so, the first that has another name, where it breaks off)."""
    kinds: Counter[str] = Counter()
    foreign: str | None = None
    at = 0
    with files.opened_file(path, follow=True) as descriptor:
        size = files.stat_of(descriptor).size
        try:
            while kinds.total() < MOST_HEADERS:
                parser = next_member(at, size, "the archive")
                wanted = next(parser)
                try:
                    while True:
                        wanted = parser.send(os.pread(descriptor, BLOCK, wanted))
                except StopIteration as end:
                    member = end.value
                if member is None:
                    break
                at = member.next
                kind = _kind(member.name)
                kinds[kind] += 1
                if kind == "other" and foreign is None:
                    foreign = f"it holds {member.name}"
        except TarError as error:
            return kinds, foreign, error
    return kinds, foreign, None


def _kind(name: str) -> str:
    if name.endswith(".tar") and WNID.fullmatch(name.removesuffix(".tar")):
        return "train"
    return "val" if VAL_PICTURE.fullmatch(name) else "other"
