"""ImageNet-1k (ILSVRC2012) as extracted folders, one for each class."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.errors import UsageError
from latentkit.sources import files
from latentkit.sources.imagenet.official import SUFFIX, TRAIN_PICTURE, VAL_PICTURE, WNID, check_split
from latentkit.sources.source import Item


@dataclass(kw_only=True, eq=False)
class ImageNetTree(files.FileSource):
    """``<root>/<split>/<wnid>/*.JPEG``, in the order of the wnids and, in each, of the names.

    Taken are ``n01440764_10026.JPEG`` and ``ILSVRC2012_val_00000293.JPEG``, nothing else. A key is
    ``<split>/<wnid>/<stem>``. A class index is the position of the wnid among the sorted wnids of the split:
    for the whole of ImageNet-1k the labels that every published model uses.

    A tree that ``latentkit.prepare`` is extracting, or stopped extracting, is refused; one that it extracted
    has class names. Any other is taken as it is.

    Orientation is off and a JPEG that libjpeg had to guess at is kept, because the published statistics and
    models were made so.

    Attributes:
        root: the folder that holds the splits.
        split: ``train`` or ``val``.
        orient: apply EXIF orientation.
        strict: refuse a JPEG that libjpeg had to guess at.

    Raises:
        UsageError: another split, no folder, no picture in it, or an extraction that has not ended.
    """

    root: str = "outputs/datasets/imagenet1k_raw"
    split: str = "val"
    orient: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        check_split(self.split)
        example = "n01440764_10026.JPEG" if self.split == "train" else "ILSVRC2012_val_00000293.JPEG"
        expected = f"expected {self.split}/<wnid>/*.JPEG in it, named as {self.split}/n01440764/{example}"
        root = files.existing_folder(self.root, expected)
        self._folder = files.existing_folder(root / self.split, expected)
        marker = read_marker(root, self.split)
        if marker is not None and marker.get("complete") is not True:
            raise UsageError(
                f"{files.printable(self._folder)} is not all of the archive: "
                "run python -m latentkit.prepare extract=true to the end"
            )
        entries = os.listdir(self._folder)  # noqa: PTH208 - names: a million paths take gigabytes
        wnids = sorted(name for name in entries if WNID.fullmatch(name))
        self.ignored = len(entries) - len(wnids)
        listings = [self._list(wnid) for wnid in wnids]
        self.classes = tuple(wnids)
        names = marker.get("class_names", {}) if marker else {}
        self.class_names = tuple(names[wnid] for wnid in wnids) if names.keys() >= set(wnids) else ()
        if not any(map(len, listings)):
            what = f"no ImageNet picture in it; {expected}"
            if any(VAL_PICTURE.fullmatch(name) for name in entries):
                what = (
                    "its pictures are in no class: sort them into folders named by wnid (Kaggle's "
                    "LOC_val_solution.csv has the wnids), or encode image-net.org's archive: dataset=imagenet"
                )
            raise UsageError(f"{files.printable(self._folder)}: {what}")
        self._stems = np.concatenate(listings)  # 32 MB for the training set: it travels to every worker
        self._labels = np.repeat(np.arange(len(wnids), dtype=np.int16), [len(stems) for stems in listings])

    def _list(self, wnid: str) -> np.ndarray:
        """Sorted stems of a class's pictures, bytes [n]."""
        folder = files.existing_folder(self._folder / wnid, "a class's pictures lie in a folder")
        names = os.listdir(folder)  # noqa: PTH208
        pictures = [name for name in names if TRAIN_PICTURE.fullmatch(name) or VAL_PICTURE.fullmatch(name)]
        self.ignored += len(names) - len(pictures)
        return np.array(sorted(name.removesuffix(SUFFIX) for name in pictures), dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, index: int) -> Item:
        label = int(self._labels[index])
        place = f"{self.classes[label]}/{self._stems[index].decode('ascii')}"
        return Item(f"{self.split}/{place}", f"{self._folder}/{place}{SUFFIX}", None, label)

    def _path(self, index: int) -> str:
        return self[index].location


def marker_path(root: Path, split: str) -> Path:
    """Where ``latentkit.prepare`` says how far the extraction of a split is."""
    return root / ".latentkit" / f"{split}.json"


def read_marker(root: Path, split: str) -> dict[str, Any] | None:
    """What it says; None for a tree that it did not extract, empty where it is damaged."""
    try:
        marker: dict[str, Any] = json.loads(marker_path(root, split).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return marker
