"""Latents of shards for training: a map-style dataset over memory-mapped files."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from latentkit.encoders.contract import ContractError
from latentkit.errors import LatentkitError
from latentkit.reading.draws import mixed, normal
from latentkit.reading.tensors import check_pretrained, scale_of
from latentkit.stores.arrays import match
from latentkit.stores.shard_file import read_header
from latentkit.stores.shard_manifest import MANIFEST, ShardEntry, ShardManifest

LATENTS, FLIPPED, LABELS = "latents", "latents_flip", "labels"

_PIECE = 1 << 16
"""Numbers that are computed at a time: they stay in the processor's cache."""

_GRAIN = 1 << 15
"""Numbers that torch converts at a time: for so few it takes one thread. More threads wait for one another
wherever other processes, such as workers, have the cores."""

Sample = tuple[Any, ...]
"""``(latents, label)``, or ``(latents, label, key)``."""


class _Shard(NamedTuple):
    """A mapped shard.

    Attributes:
        choices: ``latents`` and, where there are any, ``latents_flip``: [N, ...], as stored.
        labels: int64 [N]; None where the collection has no classes.
    """

    choices: list[np.ndarray]
    labels: np.ndarray | None


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
        scaled: give (z - shift_factor) * scaling_factor in float32; never applied twice.
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
        path = Path(path)
        manifest = ShardManifest.read(path if path.suffix == ".json" else path / MANIFEST)
        self._folder = path.parent if path.suffix == ".json" else path
        self.contract, outputs = manifest.contract, manifest.contract.outputs
        self.classes, self.class_names = manifest.classes, manifest.class_names
        if not manifest.complete:
            raise LatentkitError(f"{path} is not complete: go on with the run that encodes it")
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
        self._entries = manifest.shards
        self._ends = np.cumsum([entry.count for entry in self._entries], dtype=np.int64)
        self._shards: dict[int, _Shard] = {}
        self._names: dict[int, np.ndarray] = {}
        for entry in self._entries:
            self._check_size(entry)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: not the mappings and keys, it makes its own."""
        return self.__dict__ | {"_shards": {}, "_names": {}}

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the next pass, in all workers, persistent ones too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

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
        numbers = np.searchsorted(self._ends, places, side="right")
        rows = places - np.concatenate([[0], self._ends])[numbers]
        draws = self._draw(places)
        choices = draws >> np.uint64(63) if self._flip else np.zeros_like(draws)
        stored: list[np.ndarray] = []
        labels = np.zeros(len(places), np.int64)
        chosen = zip(numbers.tolist(), rows.tolist(), choices.tolist(), strict=True)
        for place, (number, row, choice) in enumerate(chosen):
            shard = self._shards.get(number) or self._open(number)
            stored.append(shard.choices[choice][row])
            if shard.labels is not None:
                labels[place] = shard.labels[row]
        return torch.from_numpy(self._given(stored, draws)), torch.from_numpy(labels)

    def key(self, index: int) -> str:
        """The key of a picture, such as ``train/n01440764/n01440764_10026``."""
        (place,) = self._checked([index])
        number = int(np.searchsorted(self._ends, place, side="right"))
        if number not in self._names:
            self._names[number] = self._read_keys(number)
        return bytes(self._names[number][place - self._ends[number]]).decode()

    def keys(self) -> list[str]:
        """The keys of all pictures, in order. Raises LatentkitError, which names a damaged shard."""
        numbers = range(len(self._entries))
        return [bytes(key).decode() for number in numbers for key in self._read_keys(number)]

    def _checked(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        places = np.asarray(indices, np.int64)
        wrong = (places < -len(self)) | (places >= len(self))
        if wrong.any():
            raise IndexError(f"picture {places[wrong][0]} of {len(self)}")
        return np.where(places < 0, places + len(self), places)

    def _declared(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        declared = self.contract.outputs[LATENTS]
        return tuple(declared["shape"]), np.dtype(declared["dtype"])

    def _draw(self, places: np.ndarray) -> np.ndarray:
        """64 random bits for each picture and epoch: the highest is the flip, all are the noise's key."""
        epoch = np.uint64(int(self._epoch) % (1 << 64))
        return mixed(mixed(mixed(np.full(1, self._seed)) + epoch) + places.astype(np.uint64))

    def _given(self, stored: list[np.ndarray], draws: np.ndarray) -> np.ndarray:
        """What is stored to what is asked for: float32 where it is scaled, else as stored."""
        (depth, *area), dtype = self._declared()
        shape = (depth // 2 if self._moments else depth, *area)
        given = np.empty((len(stored), *shape), dtype if self._scale is None else np.float32)
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
        shift, factor = self._scale or (0.0, 1.0)
        if self._scale is not None:
            latents -= shift
            latents *= factor
        if self._moments and self._sample:
            deviation = np.empty(given.shape, np.float32)
            _convert(stored[:, channels:], deviation)
            deviation *= 0.5
            np.exp(deviation, out=deviation)
            deviation *= normal(draws, math.prod(given.shape[1:]), factor).reshape(given.shape)
            latents += deviation
        if latents is not given:
            _convert(latents, given)

    def _check_size(self, entry: ShardEntry) -> None:
        path = self._folder / entry.path
        try:
            size = path.stat().st_size
        except OSError:
            raise LatentkitError(f"{path} is missing: verify fix=true and encode again") from None
        if size != entry.bytes:
            raise LatentkitError(
                f"{path} has {size} bytes, the manifest says {entry.bytes}: verify fix=true and encode again"
            )

    def _open(self, number: int) -> _Shard:
        """The shard, mapped in this process."""
        with self._reading(number) as file:
            header = read_header(file)
            if header.contract != self.contract.sha256:
                raise ValueError("it is of another contract than its manifest")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            names = [LATENTS, FLIPPED] if FLIPPED in self.contract.outputs else [LATENTS]
            declared = {name: self.contract.outputs[name] for name in names}
            if self.classes:
                declared[LABELS] = {"shape": [], "dtype": "int64"}
            arrays: dict[str, np.ndarray] = {}
            for name, output in declared.items():
                if name not in header.tensors:
                    raise ValueError(f"it has no {name}")
                tensor = header.tensors[name]
                shape = [self._entries[number].count, *output["shape"]]
                match(tensor.shape, tensor.dtype, {**output, "shape": shape})
                arrays[name] = np.ndarray(tensor.shape, tensor.dtype, memory, tensor.offset)
            shard = _Shard([arrays[name] for name in names], arrays.get(LABELS))
        self._shards[number] = shard
        return shard

    def _read_keys(self, number: int) -> np.ndarray:
        """A shard's keys in UTF-8: bytes of one length, a third of what so many texts take."""
        with self._reading(number) as file:
            keys = read_header(file).parse_keys()
            if len(keys) != self._entries[number].count:
                raise ValueError(f"it has {len(keys)} keys")
            return np.array([key.encode() for key in keys])

    @contextmanager
    def _reading(self, number: int) -> Iterator[BinaryIO]:
        """A shard's file; what is wrong with it is told with its name and what to do."""
        path = self._folder / self._entries[number].path
        self._check_size(self._entries[number])
        try:
            with path.open("rb") as file:
                yield file
        except (OSError, ValueError) as error:
            raise LatentkitError(f"{path} is damaged: {error}: verify fix=true and encode again") from None


def _convert(source: np.ndarray, target: np.ndarray) -> None:
    """Copy, by torch: numpy has no fast float16."""
    step = max(1, _GRAIN // source[0].size)
    for start in range(0, len(source), step):
        part = slice(start, start + step)
        torch.from_numpy(target[part]).copy_(torch.from_numpy(source[part]))
