"""What ImageNet's archives hold, as their headers say, and the index made of it.

The training archive is a tar of ``n01440764.tar`` ..., each a tar of ``n01440764_10026.JPEG`` ...; the
validation archive is a tar of ``ILSVRC2012_val_00000001.JPEG`` ... . Anything else in them is refused.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.imagenet.devkit import Devkit
from latentkit.imagenet.reading import Block, ForeignError, members
from latentkit.sources.files import MAX_FILE_BYTES
from latentkit.sources.imagenet.index import Index, IndexedArchive
from latentkit.sources.imagenet.official import CLASS_TAR, VAL_PICTURE


@dataclass
class Contents:
    """The pictures of an archive, in its own order.

    Attributes:
        wnids: of the class tars; empty for the validation archive.
        numbers: four a picture: position in ``wnids`` (0 where there are none), the number in its name, and
            where it lies in the archive: offset and length in bytes.
    """

    wnids: list[str] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))


def train_contents(block: Block, size: int) -> Contents:
    """Walk the headers of a training archive of so many bytes.

    Raises:
        TarError: it is cut or damaged; ForeignError: it holds anything but class tars of pictures, each once.
    """
    found, archive = Contents(), "the archive"
    for tar in members(block, 0, size, archive):
        match = CLASS_TAR.fullmatch(tar.name)
        if match is None:
            raise ForeignError(f"{archive} holds {tar.name}, which is no class of ImageNet")
        if (wnid := match[1]) in found.wnids:
            raise ForeignError(f"{archive} holds {tar.name} twice")
        found.wnids.append(wnid)
        name = re.compile(rf"{wnid}_(0|[1-9]\d{{0,8}})\.JPEG", re.ASCII)  # one way to write each number
        _add_pictures(found, block, tar.offset_data, tar.offset_data + tar.size, tar.name, name)
    return found


def val_contents(block: Block, size: int) -> Contents:
    """Walk the headers of a validation archive of so many bytes. Raises as `train_contents`."""
    found = Contents()
    _add_pictures(found, block, 0, size, "the archive", VAL_PICTURE)
    return found


def _add_pictures(
    found: Contents, block: Block, start: int, end: int, tar: str, name: re.Pattern[str]
) -> None:
    seen: set[int] = set()
    for picture in members(block, start, end, tar):
        match = name.fullmatch(picture.name)
        if match is None:
            raise ForeignError(f"{tar} holds {picture.name}, which is no name of a picture there")
        number = int(match[1])
        if number in seen:
            raise ForeignError(f"{tar} holds {picture.name} twice")
        if picture.size > MAX_FILE_BYTES:
            raise ForeignError(f"{tar} holds {picture.name} of {picture.size:,} bytes, which is no picture")
        seen.add(number)
        found.numbers.extend((max(len(found.wnids) - 1, 0), number, picture.offset_data, picture.size))


def make_index(
    split: str, archive: IndexedArchive, contents: Contents, devkit: Devkit | None, devkit_sha256: str | None
) -> Index:
    """Sort an archive's pictures by class and name.

    A class index is a position among the devkit's sorted wnids; among those of the training archive when
    there is no devkit, or one that lacks some of them.

    Raises:
        LatentkitError: there is no picture, or a validation picture has no line in the ground truth.
    """
    of_class, number, offset, length = np.frombuffer(contents.numbers, np.int64).reshape(-1, 4).T
    if not len(number):
        raise LatentkitError(f"{archive.path} holds no picture")
    names = dict(zip(devkit.classes, devkit.class_names, strict=True)) if devkit else {}
    if split == "val":
        assert devkit is not None, "validation labels are in the devkit alone"
        truth, classes = devkit.val_labels, devkit.classes
        if not 1 <= number.min() <= number.max() <= len(truth):
            raise LatentkitError(
                f"{archive.path} holds validation picture {number.max():,}, and the devkit has "
                f"{len(truth):,} labels: they do not belong together"
            )
        label = truth[number - 1]
        order = np.lexsort((number, label))
    else:
        classes = tuple(names) if set(contents.wnids) <= names.keys() else tuple(sorted(contents.wnids))
        label = np.array([classes.index(wnid) for wnid in contents.wnids])[of_class]
        order = np.lexsort((number.astype("S10"), label))  # as names sort: 10026 before 7
    return Index(
        split=split,
        archive=archive,
        devkit=devkit_sha256,
        classes=classes,
        class_names=tuple(names[wnid] for wnid in classes) if set(classes) <= names.keys() else (),
        offset=offset[order],
        length=length[order],
        label=label[order],
        number=number[order],
    )


def contents_of(index: Index) -> Contents:
    """What an index was made from, in the index's order: to make another of, with another devkit."""
    rows = np.stack([index.label, index.number, index.offset, index.length], axis=1, dtype=np.int64)
    return Contents(list(index.classes) if index.split == "train" else [], array("q", rows.tobytes()))
