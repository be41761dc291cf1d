"""What is evaluated: a set of pictures, or of latents that decode to pictures, in one documented order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentkit.encoders.contract import Vector

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PictureBatch:
    """Some pictures of a set, of equal size, on the host.

    Attributes:
        positions: int64 [B], places in the set's ``keys``.
        pixels: uint8 [B, H, W, 3]; None for a set of latents.
        latents: [B, C, h, w] as they are stored, of any float type (where moments are, the mean); None for a
            set of pictures.
        originals: uint8 [B, H, W, 3], the pictures that the latents were made from; None where they are not
            known.
    """

    positions: np.ndarray
    pixels: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    originals: torch.Tensor | None = None


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
        paired: whether batches have originals.
    """

    name: str
    keys: Sequence[str]
    latents: LatentSpace | None = None
    paired: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def batches(self, positions: np.ndarray, batch_size: int, workers: int) -> Iterator[PictureBatch]:
        """The pictures at these positions (int64, ascending), each once, in batches of at most `batch_size`.

        Args:
            workers: processes that decode picture files.

        Raises:
            LatentkitError: names the picture that cannot be read, or the latent that is not finite.
        """

    def unpaired(self) -> PictureSet:
        """The same set without originals, which then are not read."""
        return self

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values: everything that the pictures' pixels depend on, without reading them all.

        Two sets with equal identities have equal pictures, but for files that were written over in their
        place with others of the same size and mtime. It is hashed to name cached statistics, and stands in
        the report.
        """
