"""The beginning of another source."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from latentkit.errors import UsageError
from latentkit.sources.source import Wrapper


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
