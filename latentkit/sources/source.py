"""What a source yields: items with stable keys, and the fingerprints by which a change is noticed."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a collection.

    Attributes:
        key: stable and unique in its source, safe as a relative path (``image_id``).
        location: where the picture lies, as a user would name it; goes into records and messages.
        caption: the text that belongs to it; None when there is none.
        label: class index, 0 <= label < len(source.classes); None when the source has no classes.
    """

    key: str
    location: str
    caption: str | None = None
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """The shortcut that saves reading a picture again: its size in bytes and mtime in nanoseconds."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an output was made from: sha256 (hex) of the picture's bytes, or of the caption's UTF-8 bytes.

    ``stat`` is None for captions, and for sources that have nothing to stat.
    """

    sha256: str
    stat: Stat | None = None


class SourceError(OSError):
    """A picture cannot be read; the text is the reason that goes into the quarantine ledger."""


class Source(ABC):
    """A picture collection: a fixed, documented order, and random access by index.

    A source is picklable (it travels to worker processes), imports no torch, and is cheap to index: an
    item is made when it is asked for.

    Attributes:
        orient: whether EXIF orientation is to be applied to its pictures.
        strict: whether a JPEG that libjpeg had to guess at is refused (True) or only counted (False).
        classes: class names in the order of their indices; empty when the source has none.
        class_names: the same in words, where ``classes`` are identifiers; empty else.
        ignored: files found in the collection that are no pictures.
    """

    orient: bool
    strict: bool
    classes: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    ignored: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """The item at ``index``, 0 <= index < len(self)."""

    def keys(self) -> Iterable[str]:
        """The key of every item, in order."""
        return (self[index].key for index in range(len(self)))

    @abstractmethod
    def read(self, index: int) -> tuple[bytes, Stat | None]:
        """The picture's bytes and the stat that belongs to exactly these bytes.

        Raises:
            SourceError: the picture is not there, not readable, or not where it may be.
        """

    @abstractmethod
    def stat(self, index: int) -> Stat | None:
        """Size and mtime without reading; None when that cannot be told (``read`` then says why)."""

    def caption_choices(self, index: int) -> Iterator[tuple[str, str]]:
        """(place, caption) of each place that has a caption for a picture; the item's own comes first.

        ``record`` is a caption that was written into the records by hand; one that they repeat from another
        place is given under that place. Empty by default: for sources with one place for captions.
        """
        return iter(())

    def metadata(self, index: int) -> dict[str, Any]:
        """Further facts about a picture: JSON values for its record; empty by default."""
        return {}

    def shortfalls(self) -> Iterator[tuple[Path, str]]:
        """(file, what is wrong) where the collection is known to have other counts than it should.

        Nothing by default: how many pictures there should be is not known.
        """
        return iter(())


@dataclass(eq=False)
class Wrapper(Source):
    """A view of another source: everything is that source's, except what a subclass overrides.

    Attributes:
        source: the other one.
    """

    source: Source

    def __post_init__(self) -> None:
        for name in ("orient", "strict", "classes", "class_names", "ignored"):
            setattr(self, name, getattr(self.source, name))

    def _inner(self, index: int) -> int:
        """The index in the other source."""
        return index

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        return self.source[self._inner(index)]

    def keys(self) -> Iterable[str]:
        return self.source.keys()

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        return self.source.read(self._inner(index))

    def stat(self, index: int) -> Stat | None:
        return self.source.stat(self._inner(index))

    def caption_choices(self, index: int) -> Iterator[tuple[str, str]]:
        return self.source.caption_choices(self._inner(index))

    def metadata(self, index: int) -> dict[str, Any]:
        return self.source.metadata(self._inner(index))

    def shortfalls(self) -> Iterator[tuple[Path, str]]:
        return self.source.shortfalls()


@dataclass(eq=False)
class First(Wrapper):
    """The first ``n`` items of a source, or all when it has fewer; classes stay as they are.

    Attributes:
        n: how many, at least 1.

    Raises:
        UsageError: ``n`` is less than 1.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"limit={self.n}: must be at least 1, or null for all pictures")
        super().__post_init__()

    def __len__(self) -> int:
        return min(self.n, len(self.source))

    def keys(self) -> Iterator[str]:
        return itertools.islice(self.source.keys(), self.n)

    def _inner(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return index
