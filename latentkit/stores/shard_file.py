"""One latent shard: its rows while they are encoded, and its file, whose bytes depend on its content alone.

Format: https://huggingface.co/docs/safetensors: 8 bytes header length (little endian), JSON header,
tensors. The library reads it; it is written here because the library orders its metadata by chance, and
copies every tensor.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from latentkit.errors import UsageError, one_line
from latentkit.sources.source import Fingerprint
from latentkit.stores.arrays import match
from latentkit.stores.storage import publish

FORMAT = "latentkit.latents/1"
MAX_BYTES = 4 << 30
"""Of the rows of a shard, which are in memory until all have come."""

_NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "U8": "u1", "BOOL": "?"}
_DTYPES = {name: np.dtype(numpy) for name, numpy in _NUMPY.items()}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Tensor(NamedTuple):
    """A tensor of a shard: its type and shape, and where its bytes begin in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Header(NamedTuple):
    """What a shard says of itself.

    Attributes:
        raw: the file's first bytes, up to the first tensor.
        tensors: name -> tensor, in the order of their bytes, which follow one another without a gap.
        contract: the contract's hash.
        keys: the pictures' keys as JSON; `parse_keys` gives them.
    """

    raw: bytes
    tensors: dict[str, Tensor]
    contract: str
    keys: str

    def parse_keys(self) -> list[str]:
        """The key of each row. Raises ValueError when they are no list of texts."""
        keys = json.loads(self.keys)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("its keys are no list of texts")
        return keys


def read_header(file: BinaryIO) -> Header:
    """Read an open shard's header without trust; leaves the file at its first tensor.

    Raises:
        ValueError: it is no shard, or not whole.
    """
    raw = file.read(8)
    try:
        # It checks that tensors follow one another, and that offsets, shapes and the file's size fit.
        with safe_open(file.name, "numpy"):
            raw += file.read(int.from_bytes(raw, "little"))
        entries = json.loads(raw[8:])
        metadata = entries.pop("__metadata__")
        header = Header(raw, {}, metadata["contract"], metadata["keys"])
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            offset = len(raw) + entry["data_offsets"][0]
            header.tensors[name] = Tensor(_DTYPES[entry["dtype"]], tuple(entry["shape"]), offset)
    except SafetensorError as error:
        raise ValueError(f"it has no safetensors header: {one_line(error)}") from None
    except KeyError as error:
        raise ValueError(f"its header is not a shard's: it has no {error}") from None
    return header


def publish_shard(
    path: Path, tensors: Mapping[str, np.ndarray], keys: list[str], contract: str
) -> tuple[int, str]:
    """Publish a shard; what was written is read back and hashed before it takes its name.

    Args:
        path: the file's final name.
        tensors: name -> C-contiguous array of shape [len(keys), ...]; a dtype that safetensors has.
        keys: the pictures' keys in the order of the rows; a JSON list in the metadata, under ``keys``.
        contract: the contract's hash.

    Returns:
        The file's size in bytes, and its sha256.
    """
    # Wider types first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    metadata = {"contract": contract, "format": FORMAT, "keys": json.dumps(keys)}
    entries: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name, array in ordered:
        end = offset + array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    parts: list[bytes | memoryview] = [len(header).to_bytes(8, "little"), header]
    parts += [array.reshape(-1).view(np.uint8).data for _, array in ordered]
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        for part in parts:
            file.write(part)
            digest.update(part)

    def validate(file: BinaryIO) -> None:
        if hashlib.file_digest(file, "sha256").digest() != digest.digest():  # type: ignore[arg-type]
            raise ValueError("its sha256 is wrong")

    publish(path, write, validate)
    return 8 + len(header) + offset, digest.hexdigest()


class ShardBuffer:
    """One array for each output with a row for each index; rows come in any order, or never.

    Args:
        indices: int64 [N], ascending source indices.
        outputs: a contract's; shapes must be numbers.

    Attributes:
        sources: index -> what its row was made from.
        waiting: the indices that neither came nor failed yet.
    """

    def __init__(self, indices: np.ndarray, outputs: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = {index: row for row, index in enumerate(indices.tolist())}
        self._outputs, self.waiting, self.sources = outputs, {*self._rows}, dict[int, Fingerprint]()
        self._arrays = {
            name: np.empty((len(indices), *output["shape"]), output["dtype"])
            for name, output in outputs.items()
        }

    def put(self, index: int, arrays: Mapping[str, np.ndarray], source: Fingerprint) -> None:
        """Take a row: output name -> array. Raises ValueError when shape or dtype is not as declared."""
        for name, output in self._outputs.items():
            match(arrays[name].shape, arrays[name].dtype, output)
            self._arrays[name][self._rows[index]] = arrays[name]
        self.waiting.remove(index)
        self.sources[index] = source

    def compact(self) -> tuple[list[int], dict[str, np.ndarray]]:
        """The indices that came, ascending, and their rows, moved together in place."""
        rows = {index: row for index, row in self._rows.items() if index in self.sources}
        for array in self._arrays.values():
            for to, row in enumerate(rows.values()):
                if to != row:
                    array[to] = array[row]
        return list(rows), {name: array[: len(rows)] for name, array in self._arrays.items()}


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
        if dtype not in _NAMES:
            raise UsageError(f"store=shards cannot hold {encoder}'s {name} of {dtype}: give store=npy")
        each += math.prod(output["shape"]) * dtype.itemsize
    if each * shard_size > MAX_BYTES:
        raise UsageError(
            f"shard_size={shard_size} takes {each * shard_size / 2**30:.1f} GiB of memory for {encoder}, "
            f"more than {MAX_BYTES >> 30}: give shard_size={MAX_BYTES // each} or less"
        )
