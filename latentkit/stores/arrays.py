"""The ``.npy`` format (NEP 1, version 1.0), written without copies and read without trust."""

import contextlib
import functools
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentkit.errors import LatentkitError, one_line
from latentkit.stores.storage import Publication

_MAX_HEADER = 4096
_SECTOR = 512
_FEWEST_ZEROS = 16


def npy_publication(path: Path, array: np.ndarray) -> tuple[Publication, int]:
    """How to publish an array as ``.npy``: byte for byte what ``np.save`` writes.

    Args:
        path: the file's final name.
        array: any dtype without Python objects; must stay as it is until the file is published.

    Returns:
        The publication, and the file's size in bytes.
    """
    array = np.ascontiguousarray(array).reshape(array.shape)
    header = npy_header(array)
    size = len(header) + array.nbytes

    def write(file: BinaryIO) -> None:
        file.write(header)
        file.write(array.reshape(-1).view(np.uint8).data)

    def validate(file: BinaryIO) -> None:
        if file.read(len(header)) != header or os.fstat(file.fileno()).st_size != size:
            raise ValueError("its header or its size is wrong")

    return Publication(path, write, validate), size


def npy_header(array: np.ndarray) -> bytes:
    """What ``np.save`` writes before the numbers of an array in C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    return buffer.getvalue()


def parse_npy(content: bytearray, declared: Mapping[str, Any]) -> np.ndarray:
    """The array in a whole ``.npy``, sharing its memory; ``declared`` as for `read_npy`.

    Raises:
        ValueError: it is not what its contract says, or not whole.
    """
    file = io.BytesIO(content[: _MAX_HEADER + 10])
    shape, dtype = _check(file, declared, len(content))
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def read_npy(path: Path, declared: Mapping[str, Any]) -> np.ndarray:
    """Read an array that must be what its contract says, and nothing else.

    Args:
        path: the file.
        declared: ``{"shape": [...], "dtype": ...}`` as in a contract; a dimension that is text fits any size.

    Returns:
        The array. Nothing is allocated before shape, dtype and the file's size agree.

    Raises:
        LatentkitError: names the file: missing, cut, forged, with a pickle, with junk after it.
    """
    with _opened(path) as file:
        return _read_array(file, declared)


def inspect_npy(path: Path, declared: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with an array's file: a kind of `latentkit.upkeep.verification` and a detail, or None.

    The numbers are read once, and only when shape, dtype and the file's size agree. Zeros are what a power
    cut leaves of a file that was not synced: whole sectors (512 bytes) to its end. Only floating numbers are
    held against that, and at least 16 of them; fewer, or zeros within the last sector, pass for numbers.

    Args:
        path: the file.
        declared: as for `read_npy`.
    """
    try:
        with path.open("rb") as file:
            array, size = _read_array(file, declared), file.tell()
    except _NpyError as error:
        return error.kind, str(error)
    except (OSError, ValueError) as error:
        return "unreadable", one_line(error)
    return _inspect_numbers(array.reshape(-1), size) if array.dtype.kind == "f" else None


def _inspect_numbers(array: np.ndarray, file_bytes: int) -> tuple[str, str] | None:
    tail = (file_bytes - 1) % _SECTOR + 1
    tail += _SECTOR * (tail < _FEWEST_ZEROS * array.itemsize)
    last = array[-(tail // array.itemsize) :]
    if last.size >= _FEWEST_ZEROS and not last.any():
        zeros = array.size if not array.any() else int(np.argmax(array[::-1] != 0))
        return "zeros", f"its last {zeros:,} of {array.size:,} numbers are 0"
    bad = count_non_finite(array)
    return ("non-finite", f"{bad:,} of {array.size:,} numbers") if bad else None


def count_non_finite(array: np.ndarray) -> int:
    """How many of a floating array's numbers are NaN or infinite."""
    # Without the sign their bits are no less than infinity's; float16 has no fast isfinite.
    magnitude = array.view(f"u{array.itemsize}") & np.iinfo(f"i{array.itemsize}").max
    infinity = np.array(np.inf, array.dtype).view(magnitude.dtype)
    if array.size == 0 or magnitude.max() < infinity:  # nearly always, and half the time of counting
        return 0
    return int(np.count_nonzero(magnitude >= infinity))


def npy_shape(path: Path, declared: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of an array, held against its contract and its file's size; the numbers are not read.

    Raises:
        LatentkitError: as `read_npy`.
    """
    with _opened(path) as file:
        return _check(file, declared)[0]


class _NpyError(ValueError):
    """A readable header, but of another array: the kind is ``shape`` or ``size``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file; what is wrong with it is told with its name and what to do."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise LatentkitError(f"{path} is missing: encode it again") from None
    except (OSError, ValueError) as error:
        raise LatentkitError(f"{path} is damaged: {one_line(error)}: remove it and encode again") from None


def _check(
    file: BinaryIO, declared: Mapping[str, Any], size: int | None = None
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype, checked against what is declared and the size; leaves the file at its first number."""
    size = os.fstat(file.fileno()).st_size if size is None else size
    if size == 0:
        raise ValueError("it is empty")
    shape, dtype = read_header(file)
    match(shape, dtype, declared)
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise _NpyError("size", f"it has {size} bytes and its header says {expected}")
    return shape, dtype


def _read_array(file: io.BufferedReader, declared: Mapping[str, Any]) -> np.ndarray:
    array = np.empty(*_check(file, declared))
    if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise _NpyError("size", "it became shorter while it was read")
    return array


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a ``.npy``; leaves the file at its first number. Raises ValueError."""
    start = file.read(10)
    return _parse_header(start + file.read(int.from_bytes(start[8:], "little")))


@functools.lru_cache(64)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"it is .npy version {version}, not (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order: save np.ascontiguousarray of it")
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, dtype


def match(shape: tuple[int, ...], dtype: np.dtype[Any], declared: Mapping[str, Any]) -> None:
    """Raise ValueError unless shape and dtype are as declared in a contract."""
    asked = declared["shape"]
    fits = len(asked) == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(asked, shape, strict=True)
    )
    if not fits or dtype != np.dtype(declared["dtype"]):
        detail = f"it is {dtype} {list(shape)}, its contract says {declared['dtype']} {list(asked)}"
        raise _NpyError("shape", detail)
