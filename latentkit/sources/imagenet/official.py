"""ImageNet-1k as image-net.org publishes it: its archives, and the only names of files that are ever read."""

import re
from dataclasses import dataclass

from latentkit.errors import UsageError

SPLITS = ("train", "val")
SUFFIX = ".JPEG"

WNID = re.compile(r"n\d{8}", re.ASCII)
CLASS_TAR = re.compile(r"(n\d{8})\.tar", re.ASCII)
TRAIN_PICTURE = re.compile(r"(n\d{8})_(\d+)\.JPEG", re.ASCII)
VAL_PICTURE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.ASCII)


def check_split(split: str) -> None:
    """Raise UsageError unless it is one of `SPLITS`."""
    if split not in SPLITS:
        raise UsageError(f"ImageNet has no split {split!r}: choose from {', '.join(SPLITS)}")


def stem(split: str, wnid: str, number: int) -> str:
    """A picture's name without its suffix: ``n01440764_10026``, ``ILSVRC2012_val_00000293``."""
    return f"{wnid}_{number}" if split == "train" else f"ILSVRC2012_val_{number:08d}"


@dataclass(frozen=True)
class Official:
    """What an archive has to be.

    Attributes:
        filename: as it is published; suffixes that downloads add are found too.
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
