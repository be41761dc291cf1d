"""The rows of one shard in flight, and what can be in one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from latentkit.errors import UsageError
from latentkit.sources.source import Fingerprint
from latentkit.stores.arrays import match
from latentkit.stores.shard_file import storable

MAX_BYTES = 4 << 30


@dataclass(slots=True)
class ShardBuffer:
    """One array for each output with a row for each index; rows come in any order, or never.

    Attributes:
        indices: int64 [N], ascending source indices.
        arrays: output name -> [N, ...].
        sources: index -> what its row was made from.
        waiting: the indices that neither came nor failed yet.
    """

    indices: np.ndarray
    arrays: dict[str, np.ndarray]
    waiting: set[int]
    sources: dict[int, Fingerprint] = field(default_factory=dict)

    @classmethod
    def of(cls, indices: np.ndarray, outputs: Mapping[str, Mapping[str, Any]]) -> Self:
        """An empty buffer for the outputs of a contract; shapes must be numbers."""
        arrays = {
            name: np.empty((len(indices), *output["shape"]), output["dtype"])
            for name, output in outputs.items()
        }
        return cls(indices, arrays, {int(index) for index in indices})

    def put(self, index: int, arrays: Mapping[str, np.ndarray], source: Fingerprint) -> None:
        """Take a row: output name -> array. Raises ValueError when shape or dtype is not as declared."""
        row = int(np.searchsorted(self.indices, index))
        for name, buffer in self.arrays.items():
            match(arrays[name].shape, arrays[name].dtype, {"shape": buffer.shape[1:], "dtype": buffer.dtype})
            buffer[row] = arrays[name]
        self.waiting.remove(index)
        self.sources[index] = source

    def compact(self) -> tuple[list[int], dict[str, np.ndarray]]:
        """The indices that came, ascending, and their rows, moved together in place."""
        rows = [row for row, index in enumerate(self.indices) if int(index) in self.sources]
        for array in self.arrays.values():
            for to, row in enumerate(rows):
                if to != row:
                    array[to] = array[row]
        return [int(self.indices[row]) for row in rows], {k: v[: len(rows)] for k, v in self.arrays.items()}


def check_outputs(encoder: str, outputs: Mapping[str, Mapping[str, Any]], shard_size: int) -> None:
    """Refuse outputs that shards cannot hold, or whose rows would take more than 4 GiB of memory.

    Raises:
        UsageError: one line with what to do.
    """
    each = 0
    for name, output in outputs.items():
        if any(isinstance(length, str) for length in output["shape"]):
            shape = " x ".join(map(str, output["shape"]))
            raise UsageError(
                f"store=shards holds arrays of one shape, {encoder} has {name} of {shape}: give store=npy"
            )
        dtype = np.dtype(output["dtype"])
        if not storable(dtype):
            raise UsageError(f"store=shards cannot hold {encoder}'s {name} of {dtype}: give store=npy")
        each += math.prod(output["shape"]) * dtype.itemsize
    if each * shard_size > MAX_BYTES:
        raise UsageError(
            f"shard_size={shard_size} takes {each * shard_size / 2**30:.1f} GiB of memory for {encoder}, "
            f"more than {MAX_BYTES >> 30}: give shard_size={MAX_BYTES // each} or less"
        )
