"""What is evaluated: a set of pictures, or of latents that decode to pictures, in one documented order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract, Vector
from latentkit.errors import LatentkitError, UsageError

NAMED = 3
"""How many of the pictures that something is wrong with a message names."""


@dataclass(frozen=True)
class LatentSpace:
    """What a decoder must know of stored latents: z = stored / scale + shift.

    Attributes:
        channels: C.
        scale, shift: one number, or one a channel; 1 and 0 where the latents are stored as the encoder gave
            them.
        pretrained: False marks latents of random weights.
    """

    channels: int
    scale: Vector = 1.0
    shift: Vector = 0.0
    pretrained: bool = True


class PictureSet(ABC):
    """Pictures to evaluate.

    Attributes:
        name: short, for tables and file names: ``imagenet val``, ``samples.npz``.
        keys: of the pictures, ascending, each once. A picture's position in it is its number in every
            protocol that counts or shuffles, so that no result depends on the order of files.
        latents: how to decode; None for a set of pictures.
        originals: the pictures that latents were made from, at the same positions; None where they are not
            known.
        contract: of latents that have one.
        cut: whether these are the first of more.
        warnings: what a report has to say of the set.
    """

    name: str
    keys: Sequence[str]
    latents: LatentSpace | None = None
    originals: "PictureSet | None" = None
    contract: Contract | None = None
    cut: bool = False
    warnings: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        """At each position, in their order: uint8 [H, W, 3], or the latent, floats [C, h, w].

        Latents come as they are stored, of any float type; where moments are, the mean. An array may be a
        view of memory that is used again for the next.

        Args:
            positions: int64 [B], ascending, at least one.
            workers: processes that decode picture files.

        Raises:
            LatentkitError: names the picture that cannot be read.
        """

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON values: everything that the pictures' pixels depend on, without reading them all.

        Two sets with equal identities have equal pictures, but for files that were written over in their
        place with others of the same size and mtime. It is hashed to name cached statistics, and stands in
        the report.
        """


class FirstOf(PictureSet):
    """The first ``n`` pictures of a set by key, or all when it has fewer.

    Args:
        whole: the set.
        n: how many, at least 2.

    Raises:
        UsageError: ``n`` is less than 2.
    """

    def __init__(self, whole: PictureSet, n: int) -> None:
        if n < 2:
            raise UsageError(f"limit={n}: an evaluation needs at least 2 pictures; null takes all")
        self._whole = whole
        self.name, self.latents, self.originals = whole.name, whole.latents, whole.originals
        self.contract, self.warnings = whole.contract, whole.warnings
        self.keys = whole.keys[:n]
        self.cut = len(self.keys) < len(whole)

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        return self._whole.rows(positions, workers)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**self._whole.identity, "first": len(self)}


def named(keys: Sequence[str], positions: Iterable[int]) -> str:
    """The first few keys, and how many there are besides."""
    chosen = [keys[position] for position in positions]
    more = f" and {len(chosen) - NAMED:,} more" if len(chosen) > NAMED else ""
    return ", ".join(chosen[:NAMED]) + more


def ordered(keys: Sequence[str], name: str) -> tuple[list[str], np.ndarray]:
    """Keys ascending, and each one's row, int64 [N]. Raises LatentkitError for one that is there twice."""
    rows = sorted(range(len(keys)), key=keys.__getitem__)
    ascending = [keys[row] for row in rows]
    for first, second in pairwise(ascending):
        if first == second:
            raise LatentkitError(f"{name} has the key {first!r} twice")
    return ascending, np.array(rows, np.int64)
