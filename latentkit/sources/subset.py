"""The beginning of another source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from latentkit.errors import UsageError
from latentkit.sources.source import Item, Source, Stat


@dataclass(eq=False)
class First(Source):
    """The first ``n`` items of a source, or all when it has fewer; classes stay as they are.

    Attributes:
        source: where they come from.
        n: how many, at least 1.

    Raises:
        UsageError: ``n`` is less than 1.
    """

    source: Source
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"limit={self.n}: must be at least 1, or null for all pictures")
        self.orient, self.strict = self.source.orient, self.source.strict
        self.classes, self.class_names = self.source.classes, self.source.class_names
        self.ignored = self.source.ignored

    def __len__(self) -> int:
        return min(self.n, len(self.source))

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return index

    def __getitem__(self, index: int) -> Item:
        return self.source[self._checked(index)]

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        return self.source.read(self._checked(index))

    def stat(self, index: int) -> Stat | None:
        return self.source.stat(self._checked(index))

    def caption_choices(self, index: int) -> Iterator[tuple[str, str]]:
        return self.source.caption_choices(self._checked(index))

    def metadata(self, index: int) -> dict[str, Any]:
        return self.source.metadata(self._checked(index))
