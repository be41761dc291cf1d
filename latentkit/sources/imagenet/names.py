"""The names that ImageNet's pictures and classes have. Nothing with another name is ever read."""

import re

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
