"""The batches of a pass over a set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from latentkit.errors import LatentkitError
from latentkit.evaluation.picture_set import PictureSet, named
from latentkit.prediction.batcher import Batcher, Filled

OPEN_BATCHES = 8
"""Batches that fill up at one time, where pictures come in several sizes."""

MAX_LATENT = 1e3
"""No autoencoder's latents are larger; what is was not meant as latents."""


@dataclass(frozen=True)
class PictureBatch:
    """Some pictures of a set, of equal size, on the host.

    Attributes:
        positions: int64 [B], places in the set's ``keys``.
        stored: what the set holds: uint8 [B, H, W, 3], or latents [B, C, h, w] of any float type.
        originals: uint8 [B, H, W, 3]; None where they were not asked for, or are not known.
    """

    positions: np.ndarray
    stored: Tensor
    originals: Tensor | None = None


@dataclass(frozen=True)
class PictureBatches:
    """The pictures at some positions of a set, each once.

    Iterating raises LatentkitError, which names the picture that cannot be read, or the latents that are not
    finite or larger than any are. A loop with workers belongs into
    `latentkit.prediction.decoding.worker_deaths_told`.

    Attributes:
        pictures: the set.
        positions: int64 [N], ascending.
        size: pictures of a batch, at most.
        originals: whether they are wanted too; else they are not read.
        workers: processes that decode picture files.
        pin: whether batches lie in pinned memory, from which a GPU copies without waiting.
    """

    pictures: PictureSet
    positions: np.ndarray
    size: int
    originals: bool = False
    workers: int = 0
    pin: bool = False

    def __iter__(self) -> Iterator[PictureBatch]:
        if not len(self.positions):
            return
        sets = [self.pictures]
        if self.originals and self.pictures.originals is not None:
            sets.append(self.pictures.originals)
        batcher = Batcher[int](self.size, pin=self.pin, open_batches=OPEN_BATCHES)
        rows = zip(*(part.rows(self.positions, self.workers) for part in sets), strict=True)
        for position, arrays in zip(self.positions.tolist(), rows, strict=True):
            yield from map(self._batch, batcher.add(position, *arrays))
        yield from map(self._batch, batcher.rest())

    def _batch(self, filled: Filled[int]) -> PictureBatch:
        positions = np.array(filled.rows, np.int64)
        if self.pictures.latents is not None:
            _check_latents(self.pictures, positions, filled.tensors[0].numpy())
        return PictureBatch(positions, *filled.tensors)


def _check_latents(latents: PictureSet, positions: np.ndarray, stack: np.ndarray) -> None:
    """Raise LatentkitError, with keys, where latents [B, C, h, w] are not finite, or larger than any are."""
    # The bits of magnitudes are ordered as these are, NaN last; float16 itself is slow to compare.
    bits = stack.reshape(len(stack), -1).view(f"u{stack.itemsize}")
    reach = (bits & np.array(2 ** (8 * stack.itemsize - 1) - 1, bits.dtype)).max(axis=1).view(stack.dtype)
    wrong = np.flatnonzero(~(reach <= MAX_LATENT))
    if len(wrong):
        endless = not np.isfinite(reach[wrong]).all()
        what = "NaN or infinite" if endless else f"as large as {reach[wrong].max():,.0f}, no latents are"
        raise LatentkitError(
            f"{latents.name}: latents are {what}; by key: {named(latents.keys, positions[wrong])}"
        )
