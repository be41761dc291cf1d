"""ImageNet-1k (ILSVRC2012) straight from the tar archives, by their index."""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentkit.errors import UsageError
from latentkit.sources import files
from latentkit.sources.imagenet.index import read_index
from latentkit.sources.imagenet.official import OFFICIAL, SUFFIX, check_split, stem
from latentkit.sources.source import Item, Source, SourceError, Stat

_AGAIN = "run python -m latentkit.prepare again"


@dataclass(kw_only=True, eq=False)
class ImageNetArchive(Source):
    """The pictures of a split's archive, with the keys, labels and order of `ImageNetTree`.

    A key is ``<split>/<wnid>/<stem>``; a class index is the position of the wnid among the sorted wnids.
    Pictures are read from the archive at their offsets, by any process in any order. What a picture is
    fingerprinted by is its length and the archive's mtime.

    Attributes:
        index: the split's index, which ``latentkit.prepare`` writes.
        split: ``train`` or ``val``.
        orient: apply EXIF orientation.
        strict: refuse a JPEG that libjpeg had to guess at.
        class_names: of each class, such as ``tench, Tinca tinca``; empty where no devkit was at hand.

    Raises:
        UsageError: another split, no index, or no archive, or it has changed since it was indexed.
        LatentkitError: the index is damaged.
    """

    index: str
    split: str = "val"
    orient: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        check_split(self.split)
        self._path = Path(self.index).expanduser()
        self._index = read_index(self._path)
        self._index_stat = files.stat_of(self._path)
        self.archive = self._index.archive
        self._name = files.printable(self.archive.path)
        if self._index.split != self.split:
            raise UsageError(f"{self.index} is the index of {self._index.split}, not of {self.split}")
        self.classes, self.class_names, self.ignored = self._index.classes, self._index.class_names, 0
        self._descriptor: int | None = None
        try:
            self._open()
        except SourceError as error:
            raise UsageError(str(error)) from None

    def shortfalls(self) -> Iterator[tuple[Path, str]]:
        """No hash covers the index: of an official archive it must have the official counts."""
        official = OFFICIAL[self.split]
        for what, there, known in (
            ("classes", len(self.classes), official.classes),
            ("pictures", len(self), official.pictures),
        ):
            if self.archive.md5 == official.md5 and there != known:
                yield self._path, f"{there:,} {what}, the official archive has {known:,}"

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: neither the descriptor nor the columns, which it maps itself."""
        return self.__dict__ | {"_descriptor": None, "_index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = read_index(self._path)
        if files.stat_of(self._path) != self._index_stat:
            raise UsageError(f"{self.index} has changed since this run began: start again")

    def _open(self) -> int:
        """The archive's descriptor in this process."""
        if self._descriptor is None:
            try:
                with files.opened_file(self.archive.path, follow=True) as descriptor:
                    self._descriptor = os.dup(descriptor)
            except SourceError as error:
                raise SourceError(f"{error}: {_AGAIN}, with archives.{self.split}=FILE if it moved") from None
            weakref.finalize(self, os.close, self._descriptor)
            self._check(self._descriptor)
        return self._descriptor

    def _check(self, descriptor: int) -> None:
        if files.stat_of(descriptor) != self.archive.stat:
            raise SourceError(f"{self._name} has changed since it was indexed: {_AGAIN}")

    def __len__(self) -> int:
        return len(self._index.label)

    def __getitem__(self, index: int) -> Item:
        label = int(self._index.label[index])
        wnid = self.classes[label]
        name = stem(self.split, wnid, int(self._index.number[index]))
        inside = f"{wnid}.tar/{name}" if self.split == "train" else name
        key = f"{self.split}/{wnid}/{name}"
        return Item(key, f"{self.archive.path}/{inside}{SUFFIX}", None, label)

    def offset(self, index: int) -> int:
        """Where the picture begins in the archive: the order in which a disk reads best."""
        return int(self._index.offset[index])

    def length(self, index: int) -> int:
        """The picture's bytes."""
        return int(self._index.length[index])

    def read(self, index: int) -> tuple[bytes, Stat]:
        descriptor, length = self._open(), self.length(index)
        try:
            data = os.pread(descriptor, length, self.offset(index))
        except OSError as error:
            raise SourceError(f"{self._name}: {error.strerror or error}") from None
        self._check(descriptor)
        if len(data) != length:
            raise SourceError(f"{self._name} ends too early: {_AGAIN}")
        return data, self.stat(index)

    def stat(self, index: int) -> Stat:
        return Stat(self.length(index), self.archive.mtime_ns)
