"""What ImageNet's archives hold: the pictures, as the headers say, and the index made of them; the devkit.

The training archive is a tar of ``n01440764.tar`` ..., each a tar of ``n01440764_10026.JPEG`` ...; the
validation archive is a tar of ``ILSVRC2012_val_00000001.JPEG`` ... . Anything else in them is refused.

The development kit, ``ILSVRC2012_devkit_t12.tar.gz``, has class names and the validation labels.
``data/meta.mat`` lists the synsets: first the 1,000 classes (``num_children`` is 0), by ``ILSVRC2012_ID``,
then those above them. ``data/ILSVRC2012_validation_ground_truth.txt`` has the ILSVRC2012_ID of the k-th
validation picture in its k-th line. That ID is no class index: it is turned into a wnid, and that into its
position among the sorted wnids.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from latentkit.errors import LatentkitError, one_line
from latentkit.imagenet.reading import Block, ForeignError, members
from latentkit.imagenet.recognition import no_tar
from latentkit.sources.files import MAX_FILE_BYTES, printable
from latentkit.sources.imagenet.index import Index, IndexedArchive
from latentkit.sources.imagenet.official import CLASS_TAR, OFFICIAL, VAL_PICTURE, WNID

FILENAME = OFFICIAL["devkit"].filename
FOLDER = "ILSVRC2012_devkit_t12/data"
META = f"{FOLDER}/meta.mat"
GROUND_TRUTH = f"{FOLDER}/ILSVRC2012_validation_ground_truth.txt"

_MAX_BYTES = 2**27
"""Unpacked; the real one has under a tenth of it."""


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
        _collect(found, block, tar.offset_data, tar.offset_data + tar.size, tar.name, name)
    return found


def val_contents(block: Block, size: int) -> Contents:
    """Walk the headers of a validation archive of so many bytes. Raises as `train_contents`."""
    found = Contents()
    _collect(found, block, 0, size, "the archive", VAL_PICTURE)
    return found


PARSERS = {"train": train_contents, "val": val_contents}


def _collect(found: Contents, block: Block, start: int, end: int, tar: str, name: re.Pattern[str]) -> None:
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
    class_names = tuple(names[wnid] for wnid in classes) if set(classes) <= names.keys() else ()
    columns = (column[order] for column in (offset, length, label, number))
    return Index(split, archive, devkit_sha256, classes, class_names, *columns)


def contents_of(index: Index) -> Contents:
    """What an index was made from, in the index's order: to make another of, with another devkit."""
    rows = np.stack([index.label, index.number, index.offset, index.length], axis=1, dtype=np.int64)
    return Contents(list(index.classes) if index.split == "train" else [], array("q", rows.tobytes()))


@dataclass(frozen=True)
class Devkit:
    """Classes and validation labels.

    Attributes:
        classes: the wnids, sorted; a class index is a position in it.
        class_names: of each, such as ``tench, Tinca tinca``.
        val_labels: int64 [N], the class index of validation picture k in row k - 1.
    """

    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    val_labels: np.ndarray


def read_devkit(path: Path) -> Devkit:
    """Read it from the archive; nothing but its two data files is looked at.

    Raises:
        LatentkitError: it is no devkit, or a damaged one.
    """
    try:
        names, truth = _parse(*_data_files(path))
    except Exception as error:  # gzip, tarfile and scipy have a dozen kinds for damaged bytes
        raise LatentkitError(
            f"{printable(path)} is not ILSVRC2012's devkit: {one_line(error)}: download {FILENAME} again"
        ) from None
    classes = tuple(sorted(names))
    position = {wnid: label for label, wnid in enumerate(classes)}
    labels = np.array([position[wnid] for wnid in truth], np.int64)
    return Devkit(classes, tuple(names[wnid] for wnid in classes), labels)


def _data_files(path: Path) -> tuple[bytes, bytes]:
    """meta.mat and the ground truth."""
    with path.open("rb") as head:
        if head.read(2) != b"\x1f\x8b":
            what = no_tar(path) or "a tar that is not compressed (some browsers unpack downloads)"
            raise ValueError(f"it is {what}")
    with gzip.open(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it unpacks to over {_MAX_BYTES:,} bytes")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        holds = tar.getmembers()
        read = [(m.name, tar.extractfile(m)) for m in holds if m.isreg() and m.name in (META, GROUND_TRUTH)]
        found = {name: file.read() for name, file in read if file}
    if not len(read) == len(found) == 2:
        first = f" (it begins with {printable(holds[0].name)})" if holds else ""
        raise ValueError(f"{META} and {GROUND_TRUTH} are not in it, each once{first}")
    return found[META], found[GROUND_TRUTH]


def _parse(meta: bytes, truth: bytes) -> tuple[dict[str, str], list[str]]:
    """(wnid -> its words, the wnid of every validation picture)."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
    leaves = [synset for synset in np.atleast_1d(synsets) if int(synset["num_children"]) == 0]
    wnids = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    names = {str(leaf["WNID"]): str(leaf["words"]) for leaf in leaves}
    if sorted(wnids) != list(range(1, len(leaves) + 1)) or len(names) != len(leaves):
        raise ValueError("the classes of meta.mat are not numbered from 1, each once")
    for wnid in names:
        if not WNID.fullmatch(wnid):
            raise ValueError(f"meta.mat has a class {wnid!r}")
    lines = truth.decode("ascii").split()
    for line, text in enumerate(lines, start=1):
        if not (text.isdigit() and int(text) in wnids):
            raise ValueError(f"line {line:,} of the ground truth is {text!r}, the ID of no class")
    return names, [wnids[int(text)] for text in lines]
