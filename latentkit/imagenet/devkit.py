"""The development kit, ``ILSVRC2012_devkit_t12.tar.gz``: class names, and the validation labels.

``data/meta.mat`` lists the synsets: first the 1,000 classes (``num_children`` is 0), by ``ILSVRC2012_ID``,
then those above them. ``data/ILSVRC2012_validation_ground_truth.txt`` has the ILSVRC2012_ID of the k-th
validation picture in its k-th line. That ID is no class index: it is turned into a wnid, and that into its
position among the sorted wnids.
"""

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentkit.errors import LatentkitError, one_line
from latentkit.imagenet.recognition import no_tar
from latentkit.sources.files import printable
from latentkit.sources.imagenet.official import WNID

FILENAME = "ILSVRC2012_devkit_t12.tar.gz"
FOLDER = "ILSVRC2012_devkit_t12/data"
META = f"{FOLDER}/meta.mat"
GROUND_TRUTH = f"{FOLDER}/ILSVRC2012_validation_ground_truth.txt"

_MAX_BYTES = 2**27
"""Unpacked; the real one has under a tenth of it."""


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
