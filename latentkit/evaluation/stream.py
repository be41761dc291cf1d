"""The batches of one pass over a set, ready for the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from latentkit.evaluation.picture_set import PictureBatch, PictureSet
from latentkit.prediction.processes import Stoppable


class PictureStream(Stoppable):
    """The prediction dataloader: this process's part of a set.

    Latents are padded to whole batches by repeating the last one, so that every forward pass of the decoder
    runs the same kernels, and no pixel depends on how the set was divided.

    Args:
        pictures: the set.
        positions: int64 [N], ascending, of this process.
        batch_size: pictures a batch.
        originals: whether they are wanted; else they are not read.
        workers: processes that decode picture files.
        pin: whether batches lie in pinned memory, from which a GPU copies asynchronously.
    """

    def __init__(
        self,
        pictures: PictureSet,
        positions: np.ndarray,
        batch_size: int,
        *,
        originals: bool,
        workers: int,
        pin: bool,
    ) -> None:
        self._pictures = pictures if originals else pictures.unpaired()
        self._positions = positions
        self._batch_size = batch_size
        self._workers = workers
        self._pin = pin

    def keys(self, positions: np.ndarray) -> list[str]:
        """The keys of pictures at these positions of the set."""
        return [self._pictures.keys[position] for position in positions.tolist()]

    def __iter__(self) -> Iterator[PictureBatch]:
        for batch in self._batches(self._positions, self._workers):
            if self.stopped:
                return
            yield batch

    def again(self, positions: np.ndarray) -> Iterator[PictureBatch]:
        """A few pictures of the set once more, whoever's they were."""
        return self._batches(positions, 0)

    def _batches(self, positions: np.ndarray, workers: int) -> Iterator[PictureBatch]:
        if not len(positions):
            return
        for batch in self._pictures.batches(positions, self._batch_size, workers):
            yield dataclasses.replace(
                batch,
                pixels=self._ready(batch.pixels),
                latents=self._ready(_padded(batch.latents, self._batch_size)),
                originals=self._ready(batch.originals),
            )

    def _ready(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor.pin_memory() if self._pin and tensor is not None else tensor


def _padded(latents: torch.Tensor | None, size: int) -> torch.Tensor | None:
    if latents is None or len(latents) == size:
        return latents
    return torch.cat([latents, latents[-1:].expand(size - len(latents), *latents.shape[1:])])
