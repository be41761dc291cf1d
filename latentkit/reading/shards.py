"""Latents of shards for training: a map-style dataset over memory-mapped files.

What it draws at random follows from keys alone, in any order, batch and process.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from latentkit.encoders.contract import ContractError
from latentkit.reading.tensors import check_pretrained, scale_of
from latentkit.stores.shard_output import LABELS, ShardOutput

LATENTS, FLIPPED = "latents", "latents_flip"

_PIECE = 1 << 16
"""Numbers that are computed at a time: they stay in the processor's cache."""

_GRAIN = 1 << 15
"""Numbers that torch converts at a time: for so few it takes one thread. More threads wait for one another
wherever other processes, such as workers, have the cores."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)

Sample = tuple[Any, ...]
"""``(latents, label)``, or ``(latents, label, key)``."""


class LatentShards(Dataset[Sample]):
    """The latents of a folder of shards (``store=shards``), in the collection's order.

    ``dataset[i]`` is ``(latents, label)``: float16 [C, h, w], or float32 with ``scaled``, and an int64
    scalar, an index into ``classes`` (0 for all where the collection has none). A DataLoader of any batch
    size and number of workers, forked or spawned, reads whole batches at once. The files are mapped when a
    process first reads from them; they must not change meanwhile.

    What is drawn at random (the flip, the posterior's noise) depends on ``seed``, the epoch and the index
    alone, not on batches or workers; call `set_epoch` before each epoch, or every one has the same draws.

    Args:
        path: the folder, or its ``manifest.json``.
        scaled: give (z - shift) * scale in float32; never applied twice.
        require: what the contract must say, as `Contract.require` takes it: ``{"input__crop": "adm"}``.
        allow_random: take numbers of random weights, which mean nothing.
        flip: of each picture its latent or, with probability 1/2, its mirror's, where these are stored
            (None); where they must be stored (True); or never the mirror's (False).
        sample: where moments are stored, draw from the posterior: mean + exp(logvar / 2) * noise. False
            gives its mean.
        seed: of what is drawn.
        keys: give ``(latents, label, key)``.

    Attributes:
        contract: what the numbers mean.
        classes, class_names: as in the manifest.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: the manifest is missing, damaged or not complete; a shard is missing or has another
            size; or, while reading, names the shard that is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        scaled: bool = False,
        require: Mapping[str, Any] | None = None,
        allow_random: bool = False,
        flip: bool | None = None,
        sample: bool = True,
        seed: int = 0,
        keys: bool = False,
    ) -> None:
        self._output = ShardOutput(Path(path))
        self.contract, outputs = self._output.contract, self._output.contract.outputs
        self.classes, self.class_names = self._output.classes, self._output.class_names
        self.contract.require(**(require or {}))
        check_pretrained({self.contract.encoder: self.contract}, allow_random)
        if LATENTS not in outputs:
            raise ContractError(f"{self.contract.encoder} stores {', '.join(outputs)}, no latents")
        if flip and FLIPPED not in outputs:
            raise ContractError(f"{self.contract.encoder} stores no latents_flip: encode with flip=true")
        self._scale = scale_of(self.contract) if scaled else None
        self._flip = FLIPPED in outputs if flip is None else flip
        self._moments, self._sample = self.contract.stored == "moments", sample
        self._keys, self._seed = keys, np.uint64(seed % (1 << 64))
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # persistent workers see it too

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the next pass, in all workers, persistent ones too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._output)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples at once, as a DataLoader asks for them."""
        latents, labels = self.batch(indices)
        columns: list[Any] = [latents.unbind(), labels.unbind()]
        if self._keys:
            columns.append([self.key(index) for index in indices])
        return list(zip(*columns, strict=True))

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, h, w] and labels int64 [B], of any indices in any order.

        Raises:
            IndexError: there is no such index.
            LatentkitError: names the shard that is damaged.
        """
        places = self._checked(indices)
        draws = self._draw(places)
        stored = self._output.rows(LATENTS, places)
        if self._flip:
            mirrored = np.flatnonzero(draws >> np.uint64(63))
            for place, array in zip(mirrored, self._output.rows(FLIPPED, places[mirrored]), strict=True):
                stored[place] = array
        labels = np.zeros(len(places), np.int64)
        if self.classes:
            labels[:] = self._output.rows(LABELS, places)
        return torch.from_numpy(self._given(stored, draws)), torch.from_numpy(labels)

    def key(self, index: int) -> str:
        """The key of a picture, such as ``train/n01440764/n01440764_10026``."""
        return self._output.keys[int(self._checked([index])[0])]

    def keys(self) -> list[str]:
        """The keys of all pictures, in order. Raises LatentkitError, which names a damaged shard."""
        return list(self._output.keys)

    def _checked(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        places = np.asarray(indices, np.int64)
        wrong = (places < -len(self)) | (places >= len(self))
        if wrong.any():
            raise IndexError(f"picture {places[wrong][0]} of {len(self)}")
        return np.where(places < 0, places + len(self), places)

    def _draw(self, places: np.ndarray) -> np.ndarray:
        """64 random bits for each picture and epoch: the highest is the flip, all are the noise's key."""
        epoch = np.uint64(int(self._epoch) % (1 << 64))
        return mixed(mixed(mixed(np.full(1, self._seed)) + epoch) + places.astype(np.uint64))

    def _given(self, stored: list[np.ndarray], draws: np.ndarray) -> np.ndarray:
        """What is stored to what is asked for: float32 where it is scaled, else as stored."""
        declared = self.contract.outputs[LATENTS]
        depth, *area = declared["shape"]
        shape = (depth // 2 if self._moments else depth, *area)
        given = np.empty((len(stored), *shape), declared["dtype"] if self._scale is None else np.float32)
        step = max(1, _PIECE // math.prod(shape))
        for start in range(0, len(stored), step):
            piece = slice(start, start + step)
            if self._moments or self._scale is not None:
                together = np.concatenate(stored[piece]).reshape(-1, depth, *area)
                self._compute(together, draws[piece], given[piece])
            else:
                np.concatenate(stored[piece], out=given[piece].reshape(-1, *area))
        return given

    def _compute(self, stored: np.ndarray, draws: np.ndarray, given: np.ndarray) -> None:
        """Fill ``given`` with the latents of some pictures."""
        channels = given.shape[1]
        latents = given if given.dtype == np.float32 else np.empty(given.shape, np.float32)
        _convert(stored[:, :channels], latents)
        shift, scale = self._scale or (0.0, 1.0)
        if self._scale is not None:
            latents -= shift
            latents *= scale
        if self._moments and self._sample:
            deviation = np.empty(given.shape, np.float32)
            _convert(stored[:, channels:], deviation)
            deviation *= 0.5
            np.exp(deviation, out=deviation)
            one, vector = (scale, 1.0) if isinstance(scale, float) else (1.0, scale)
            deviation *= normal(draws, math.prod(given.shape[1:]), one).reshape(given.shape)
            deviation *= vector
            latents += deviation
        if latents is not given:
            _convert(latents, given)


def _convert(source: np.ndarray, target: np.ndarray) -> None:
    """Copy, by torch: numpy has no fast float16."""
    step = max(1, _GRAIN // source[0].size)
    for start in range(0, len(source), step):
        part = slice(start, start + step)
        torch.from_numpy(target[part]).copy_(torch.from_numpy(source[part]))


def mixed(values: np.ndarray) -> np.ndarray:
    """The first number of the SplitMix64 stream (Steele, Lea and Flood, 2014) that begins at each value.

    uint64 to uint64, one to one, as if at random; the n-th after it is ``mixed(values + n * gamma)``.
    """
    return _finished(values + _GAMMA)


def _finished(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, in place."""
    shifted = values >> np.uint64(30)
    values ^= shifted
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= np.right_shift(values, np.uint64(27), out=shifted)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= np.right_shift(values, np.uint64(31), out=shifted)
    return values


def normal(keys: np.ndarray, size: int, deviation: float = 1.0) -> np.ndarray:
    """Normal numbers of mean 0 by Box and Muller's transform; none is beyond 6.8 deviations.

    Args:
        keys: uint64 [B], each the start of a SplitMix64 stream of its own.
        size: numbers a key.
        deviation: the square root of their variance.

    Returns:
        float32 [B, size].
    """
    pairs = -(-size // 2)
    steps = np.arange(1, pairs + 1, dtype=np.uint64) * _GAMMA
    bits = _finished(keys[:, None] + steps).view(np.uint32)
    radius = bits[:, :pairs].astype(np.float32)
    radius += 0.5
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2 * deviation**2
    np.sqrt(radius, out=radius)
    angle = bits[:, pairs:].view(np.int32).astype(np.float32)
    angle *= math.pi / 2**31
    numbers = np.empty((len(keys), 2 * pairs), np.float32)
    np.multiply(np.cos(angle), radius, out=numbers[:, :pairs])
    np.multiply(np.sin(angle, out=angle), radius, out=numbers[:, pairs:])
    return numbers[:, :size]
