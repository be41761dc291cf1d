"""One latent shard: a safetensors file whose bytes depend on its content alone.

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

from latentkit.errors import one_line
from latentkit.stores.storage import publish

FORMAT = "latentkit.latents/1"

_DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.uint8): "U8",
    np.dtype(np.bool_): "BOOL",
}
_NAMES = {name: dtype for dtype, name in _DTYPES.items()}
_CHUNK = 1 << 22


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
            header.tensors[name] = Tensor(_NAMES[entry["dtype"]], tuple(entry["shape"]), offset)
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
        entries[name] = {
            "dtype": _DTYPES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    parts: list[bytes | memoryview] = [len(header).to_bytes(8, "little"), header]
    parts += [_bytes(array) for _, array in ordered]
    meant, found = hashlib.sha256(), hashlib.sha256()

    def write(file: BinaryIO) -> None:
        for part in parts:
            file.write(part)
            meant.update(part)

    def validate(file: BinaryIO) -> None:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
        if found.digest() != meant.digest():
            raise ValueError("its sha256 is wrong")

    publish(path, write, validate)
    return 8 + len(header) + offset, found.hexdigest()


def storable(dtype: np.dtype[np.generic]) -> bool:
    """Whether a shard can hold it."""
    return dtype in _DTYPES


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
