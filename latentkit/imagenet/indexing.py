"""From what the headers of an archive say to its index."""

from __future__ import annotations

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.imagenet.devkit import Devkit
from latentkit.imagenet.members import Members
from latentkit.sources.imagenet.index import Index, IndexedArchive


def make_index(
    split: str,
    archive: IndexedArchive,
    members: Members,
    devkit: Devkit | None,
    devkit_sha256: str | None,
) -> Index:
    """Sort an archive's pictures by class and name.

    A class index is a position among the devkit's sorted wnids; among those of the training archive when
    there is no devkit, or one that lacks some of them.

    Raises:
        LatentkitError: a validation picture has no line in the ground truth.
    """
    number = np.array(members.number, np.int64)
    names: dict[str, str] = {}
    if devkit is not None:
        names = dict(zip(devkit.classes, devkit.class_names, strict=True))
    if split == "val":
        assert devkit is not None, "validation labels are in the devkit alone"
        truth = devkit.val_labels
        if len(number) and not 1 <= number.min() <= number.max() <= len(truth):
            raise LatentkitError(
                f"{archive.path} holds validation picture {number.max():,}, and the devkit has "
                f"{len(truth):,} labels: they do not belong together"
            )
        classes = tuple(names)
        label = truth[number - 1]
        order = np.lexsort((number, label))
    else:
        classes = tuple(names) if set(members.wnids) <= names.keys() else tuple(sorted(members.wnids))
        position = {wnid: index for index, wnid in enumerate(classes)}
        of_class = np.array([position[wnid] for wnid in members.wnids], np.int64)
        label = of_class[np.array(members.of_class, np.int64)] if len(number) else number
        order = np.lexsort((number.astype("S10"), label))  # as names sort: 10026 before 7
    if not len(number):
        raise LatentkitError(f"{archive.path} holds no picture")
    return Index(
        split=split,
        archive=archive,
        devkit=devkit_sha256,
        classes=classes,
        class_names=tuple(names[wnid] for wnid in classes) if set(classes) <= names.keys() else (),
        offset=np.array(members.offset, np.int64)[order],
        length=np.array(members.length, np.int32)[order],
        label=label[order].astype(np.int16),
        number=number[order].astype(np.int32),
    )


def members_of(index: Index) -> Members:
    """What an index was made from, in the index's order: to make another of, with another devkit."""
    members = Members(wnids=list(index.classes) if index.split == "train" else [])
    if index.split == "train":
        members.of_class.extend(index.label.tolist())
    for column in ("number", "offset", "length"):
        getattr(members, column).extend(getattr(index, column).tolist())
    return members
