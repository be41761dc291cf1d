"""Tensors in files that users bring: row by row, so that memory does not depend on a file's size.

``.safetensors``, ``.npy`` and the stored members of ``.npz`` are read at their offsets; compressed members
are inflated once, in order; ``.pt`` is mapped. No pickle is ever run.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from latentkit.errors import LatentkitError, UsageError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".npz", ".npy", ".pt", ".pth")

_TYPES = {
    name: np.dtype(code)
    for name, code in (
        ("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("U8", "u1"), ("I8", "i1"), ("I16", "<i2"),
        ("I32", "<i4"), ("I64", "<i8"), ("U16", "<u2"), ("U32", "<u4"), ("U64", "<u8"), ("BOOL", "?"),
    )
}  # fmt: skip
_BFLOAT16 = "BF16"
_LOCAL_HEADER = 30
_MAX_NPY_HEADER = 10_000


class FileTensor(ABC):
    """A tensor of a file.

    Attributes:
        shape: of all of it.
        dtype: of what `rows` gives.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The rows, ``tensor[i]``, in the order asked for.

        Raises:
            LatentkitError: the file is cut or damaged.
        """


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        tensors: by name; a file of one nameless tensor calls it by the empty text.
        metadata: of a safetensors file; else empty.
    """

    tensors: dict[str, FileTensor]
    metadata: dict[str, str]


def read_tensor_file(path: Path) -> TensorFile:
    """Look at a file's tensors, without reading their numbers.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
        LatentkitError: it is not such a file, is cut or damaged, or holds Python objects.
    """
    readers = {".safetensors": _safetensors, ".npz": _npz, ".npy": _npy, ".pt": _torch, ".pth": _torch}
    if path.suffix not in readers:
        raise UsageError(f"{path} is no tensor file: give one that ends in {' '.join(SUFFIXES)}")
    try:
        return readers[path.suffix](path)
    except pickle.UnpicklingError:
        raise LatentkitError(
            f"{path} holds more than tensors, or is no file of torch.save; nothing of it was run: "
            "save a tensor, or a dict of tensors"
        ) from None
    except zipfile.BadZipFile:
        raise LatentkitError(f"{path} is cut, or no {path.suffix} file: bring or save it again") from None
    except (
        OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError,
        SafetensorError, zlib.error,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LatentkitError(f"{path} cannot be read as {path.suffix}: {reason}") from None


@dataclass(frozen=True)
class _Stored(FileTensor):
    """Numbers in C order at a place in a file; `bfloat16` ones are two bytes each, and widened."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    bfloat16: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return np.dtype(np.float32) if self.bfloat16 else self.stored

    def rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        size = math.prod(self.shape[1:]) * self.stored.itemsize
        with self.path.open("rb") as file:
            for row in rows.tolist():
                raw = os.pread(file.fileno(), size, self.offset + row * size)
                if len(raw) != size:
                    raise LatentkitError(f"{self.path} became shorter while it was read")
                array = np.frombuffer(raw, self.stored).reshape(self.shape[1:])
                yield (array.astype(np.uint32) << 16).view(np.float32) if self.bfloat16 else array


@dataclass(frozen=True)
class _Compressed(FileTensor):
    """A compressed member of an ``.npz``. Its rows can be asked for in ascending order only."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                _npy_header(file)
                before = -1
                for row in rows.tolist():
                    for _ in range(row - before - 1):
                        _read_exactly(file, size)
                    before = row
                    yield np.frombuffer(_read_exactly(file, size), self.dtype).reshape(self.shape[1:])
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise LatentkitError(f"{self.path} is damaged: {error}") from None


@dataclass(frozen=True)
class _Mapped(FileTensor):
    """A tensor that torch mapped; bfloat16 is widened."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return _as_numpy(self.tensor[:0]).dtype

    def rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows.tolist():
            yield _as_numpy(self.tensor[row])


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    import torch

    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _safetensors(path: Path) -> TensorFile:
    with safe_open(path, "numpy") as file:  # checks that offsets, shapes and the file's size fit
        metadata = file.metadata() or {}
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        entries = json.loads(raw.read(length))
    tensors: dict[str, FileTensor] = {}
    for name, entry in entries.items():
        bfloat16 = entry.get("dtype") == _BFLOAT16
        if name != "__metadata__" and (bfloat16 or entry["dtype"] in _TYPES):
            stored = np.dtype("<u2") if bfloat16 else _TYPES[entry["dtype"]]
            offset = 8 + length + entry["data_offsets"][0]
            tensors[name] = _Stored(path, offset, tuple(entry["shape"]), stored, bfloat16)
    return TensorFile(tensors, metadata)


def _npy(path: Path) -> TensorFile:
    with path.open("rb") as file:
        shape, dtype = _npy_header(file)
        _check_size(file.tell(), shape, dtype, path.stat().st_size)
        return TensorFile({"": _Stored(path, file.tell(), shape, dtype)}, {})


def _npz(path: Path) -> TensorFile:
    tensors: dict[str, FileTensor] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as member:
                shape, dtype = _npy_header(member)
                header = member.tell()
            _check_size(header, shape, dtype, info.file_size)
            name = info.filename.removesuffix(".npy")
            if info.compress_type == zipfile.ZIP_STORED:
                raw.seek(info.header_offset)
                local = raw.read(_LOCAL_HEADER)
                lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
                offset = info.header_offset + _LOCAL_HEADER + lengths + header
                tensors[name] = _Stored(path, offset, shape, dtype)
            else:
                tensors[name] = _Compressed(path, info.filename, shape, dtype)
    return TensorFile(tensors, {})


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a ``.npy``; leaves the file at its first number."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"it is .npy version {version}")
    shape, fortran, dtype = read[version](file, max_header_size=_MAX_NPY_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), not numbers")
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order: save np.ascontiguousarray of it")
    return shape, dtype


def _check_size(header: int, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    meant = header + math.prod(shape) * dtype.itemsize
    if size != meant:
        raise ValueError(f"it has {size:,} bytes and its header says {meant:,}")


def _read_exactly(file: BinaryIO | Any, size: int) -> bytes:
    data: bytes = file.read(size)
    if len(data) != size:
        raise EOFError("it ends too early")
    return data


def _torch(path: Path) -> TensorFile:
    import torch

    mapped = zipfile.is_zipfile(path)  # what torch wrote before 1.6 cannot be
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    values = loaded if isinstance(loaded, dict) else {"": loaded}
    tensors: dict[str, FileTensor] = {
        str(name): _Mapped(value.detach())
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
    return TensorFile(tensors, {})
