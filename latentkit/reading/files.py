"""Encoded pictures for training, from a file each: a map-style dataset, batches of one aspect bucket."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from latentkit.errors import UsageError
from latentkit.reading.tensors import Asked, Tensors, chosen
from latentkit.stores.open import npy_outputs
from latentkit.stores.records import RECORDS
from latentkit.stores.samples import UNBUCKETED, declared_fields, find_samples, read_sample


class LatentFiles(Dataset[dict[str, Any]]):
    """The complete pictures of an output folder (``data/derived``, or any of store=npy), sorted by key.

    ``dataset[i]`` is a dict: ``image_id``; ``caption``; ``aspect_bucket``, ``width``, ``height``, ``label``
    where the record has them; and tensors: ``dinov3`` float32 [1024], ``flux_vae`` float16 [16, H/8, W/8],
    ``t5`` float16 [77, 1024], ``t5_mask`` bool [77], ``dinov3_patches`` ..., as the contracts say. Keys,
    sizes and places of records are in memory, all else is read when it is asked for. Travels to workers,
    forked or spawned.

    Args:
        root: the output folder.
        encoders: read only these, and take a picture that has them for complete; None: all that are there.
        scaled: give latents as (z - shift) * scale, float32; never applied twice.
        require: encoder -> what its contract must say: ``{"flux_vae": {"stored": "posterior_mean"}}``.
        allow_random: take numbers of random weights, which mean nothing.
        records: the records' file name; found by default.

    Attributes:
        contracts: encoder -> `Contract`.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: there is nothing complete; or, while reading, names the file that is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        encoders: Sequence[str] | None = None,
        scaled: bool = False,
        require: Asked | None = None,
        allow_random: bool = False,
        records: str | None = None,
    ) -> None:
        self._outputs = chosen(npy_outputs(root), encoders, root)
        self.contracts = {name: output.contract for name, output in self._outputs.items()}
        self._tensors = Tensors(self.contracts, scaled, require, allow_random)
        paths = [Path(root, name) for name in ([records] if records else RECORDS)]
        self._records = next((path for path in paths if path.exists()), paths[0])
        self._samples = find_samples(self._outputs, self._records).complete

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self._records.open("rb") as records:
            _, record, arrays = read_sample(records, self._samples[index], self._outputs)
        return self._tensors.sample(record, self._samples[index].bucket, arrays)

    def groups(self) -> dict[str, np.ndarray]:
        """Which pictures can be in one batch: aspect bucket -> their indices, int64, ascending.

        Without buckets it is one group, or, where shapes follow the pictures' (``crop=original``), one for
        each width and height.
        """
        declared = declared_fields(self.contracts).values()
        varying = any(isinstance(side, str) for output in declared for side in output["shape"])
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(self._samples):
            whole = sample.bucket == UNBUCKETED and varying
            name = "x".join(map(str, sample.size)) if whole else sample.bucket
            groups.setdefault(name, []).append(index)
        return {name: np.array(groups[name], np.int64) for name in sorted(groups)}


class BucketBatchSampler(Sampler[list[int]]):
    """Batches whose pictures share an aspect bucket: ``DataLoader(dataset, batch_sampler=...)``.

    At every step all ranks have a batch of the same bucket and, but for a bucket's last, of the same size.
    Every picture is there once an epoch over all ranks. A bucket's last step divides what is left evenly;
    where fewer pictures than ranks are left, some of the bucket's (fewer than ``world_size``) come twice,
    so that every rank has as many batches. Which pictures share a batch, and the order of the batches,
    follow from ``seed`` and the epoch alone.

    Args:
        dataset: gives ``groups()``.
        batch_size: pictures a batch and rank.
        shuffle: in a new order every epoch (call `set_epoch`); else bucket by bucket, in order.
        seed: of the order.
        drop_last: leave out each bucket's last step if it is not full: all batches have one size.
        rank, world_size: of this process. Trainers that put in samplers of their own have to be told not to
            (Lightning: ``use_distributed_sampler=False``).
    """

    def __init__(
        self,
        dataset: LatentFiles,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise UsageError(f"batch_size={batch_size}, rank={rank}, world_size={world_size}: cannot be")
        self._groups = list(dataset.groups().values())
        self._batch_size, self._shuffle, self._seed, self._drop_last = batch_size, shuffle, seed, drop_last
        self._rank, self._world_size = rank, world_size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of this rank, the same for all."""
        step = self._batch_size * self._world_size
        added = 0 if self._drop_last else step - 1
        return sum((len(group) + added) // step for group in self._groups)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        batches: list[np.ndarray] = []
        for group in self._groups:
            batches += self._divide(rng.permutation(group) if self._shuffle else group)
        order = rng.permutation(len(batches)) if self._shuffle else np.arange(len(batches))
        for number in order:
            yield batches[number].tolist()

    def _divide(self, group: np.ndarray) -> Iterator[np.ndarray]:
        """This rank's batches of a bucket."""
        step = self._batch_size * self._world_size
        full = len(group) // step * step
        for start in range(0, full, step):
            yield group[start + self._rank * self._batch_size :][: self._batch_size]
        left = group[full:]
        if len(left) and not self._drop_last:
            left = np.concatenate([left, np.resize(group, max(0, self._world_size - len(left)))])
            yield np.array_split(left, self._world_size)[self._rank]
