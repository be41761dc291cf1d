"""Tensors in files that users bring: row by row, so that memory does not depend on a file's size.

``.safetensors``, ``.npy`` and ``.pt`` are mapped; members of an ``.npz`` are read in order, compressed or
not. No pickle is ever run.
"""

import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from latentkit.encoders.weights import file_sha256
from latentkit.errors import LatentkitError, one_line
from latentkit.stores.arrays import read_header

DAMAGED = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What numpy, torch and zipfile raise of files that are not what their names say."""

MAX_HASHED = 2**30
"""A larger file is told by its place, size and mtime: it would take longer to hash than a user would wait."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        shape: of all of it.
        dtype: of its rows.
        rows: row numbers, int64 [B] -> ``tensor[i]`` of each, in this order. Raises LatentkitError where the
            file is damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Callable[[np.ndarray], Iterator[np.ndarray]]


Tensors = dict[str, FileTensor]
"""By name; a file of one nameless tensor calls it by the empty text."""


def read_tensor_file(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    """A file's tensors, without their numbers, and the metadata of a safetensors file; else none.

    Args:
        path: has one of the `SUFFIXES`.

    Raises:
        LatentkitError: it is not such a file, is cut or damaged, or holds Python objects.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        return _READERS[path.suffix](path), {}
    except pickle.UnpicklingError:
        raise LatentkitError(
            f"{path} holds more than tensors, or is no file of torch.save; nothing of it was run: "
            "save a tensor, or a dict of tensors"
        ) from None
    except zipfile.BadZipFile:
        raise LatentkitError(f"{path} is cut, or no {path.suffix} file: bring or save it again") from None
    except (*DAMAGED, SafetensorError) as error:
        reason = one_line(error)[:200] or type(error).__name__
        raise LatentkitError(f"{path} cannot be read as {path.suffix}: {reason}") from None


def _safetensors(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    file: Any = safe_open(path, "pt")  # checks that offsets, shapes and the file's size fit
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    tensors = {name: (part, part.get_shape()) for name, part in slices.items()}
    return _mapped(tensors), file.metadata() or {}


def _torch(path: Path) -> Tensors:
    import torch

    mapped = zipfile.is_zipfile(path)  # what torch wrote before 1.6 cannot be
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    values = loaded if isinstance(loaded, dict) else {"": loaded}
    return _mapped(
        {
            str(name): (value.detach(), value.shape)
            for name, value in values.items()
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }
    )


def _mapped(tensors: Mapping[str, tuple[Any, Any]]) -> Tensors:
    """Of torch tensors, or slices of a file that become some, and their shapes; bfloat16 is widened."""
    import torch

    def numbers(tensor: torch.Tensor) -> np.ndarray:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def rows(tensor: Any, places: np.ndarray) -> Iterator[np.ndarray]:
        for place in places.tolist():
            yield numbers(tensor[place])

    return {
        name: FileTensor(tuple(shape), numbers(tensor[:0]).dtype, partial(rows, tensor))
        for name, (tensor, shape) in tensors.items()
        if len(shape)
    }


def _npy(path: Path) -> Tensors:
    with path.open("rb") as file:
        shape, dtype = _checked_header(file, path.stat().st_size)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return {"": FileTensor(shape, dtype, lambda places: (array[place] for place in places))}


def _npz(path: Path) -> Tensors:
    tensors = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as member:
                    shape, dtype = _checked_header(member, info.file_size)
                rows = partial(_streamed, path, info.filename)
                tensors[info.filename.removesuffix(".npy")] = FileTensor(shape, dtype, rows)
    return tensors


_READERS = {".npz": _npz, ".npy": _npy, ".pt": _torch, ".pth": _torch}
SUFFIXES = (".safetensors", *_READERS)


def _streamed(path: Path, member: str, places: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of a member: what lies between them is read, and what lies before one once more."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            shape, dtype = read_header(file)  # type: ignore[arg-type]  # reads alone
            size = math.prod(shape[1:]) * dtype.itemsize
            start = file.tell()
            for place in places.tolist():
                file.seek(start + place * size)
                yield np.frombuffer(file.read(size), dtype).reshape(shape[1:])
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise LatentkitError(f"{path} is damaged: {error}") from None


def _checked_header(file: Any, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a ``.npy`` of so many bytes."""
    shape, dtype = read_header(file)
    meant = file.tell() + math.prod(shape) * dtype.itemsize
    if size != meant:
        raise ValueError(f"it has {size:,} bytes and its header says {meant:,}")
    return shape, dtype


def file_identity(path: Path) -> dict[str, Any]:
    """A file's sha256; of one over 1 GiB its place, links resolved, and its size and mtime.

    As for make, such a file is the same when it lies in the same place and has the same size and mtime.

    Raises:
        LatentkitError: it cannot be read.
    """
    try:
        now = path.stat()
        if now.st_size > MAX_HASHED:
            return {"place": str(path.resolve()), "bytes": now.st_size, "mtime_ns": now.st_mtime_ns}
        return {"sha256": file_sha256(path)}
    except OSError as error:
        raise LatentkitError(f"{path} cannot be read: {error.strerror or error}") from None
