"""One tar of samples as WebDataset reads them: ``<name>.json``, ``<name>.<member>.npy``, sample after sample.

WebDataset takes what stands before the first dot of a member's name for the sample's key, so a key is
written percent-encoded, dots and slashes too; ``urllib.parse.unquote`` gives it back, and the ``json`` holds
it as it is. The bytes follow from the samples alone: members in the order of their names, no times, no
owners; USTAR headers, and PAX ones where a name is longer than 100 characters.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.stores.arrays import npy_header
from latentkit.stores.storage import publish

RECORD = "json"

TarSample = tuple[str, bytes, dict[str, np.ndarray]]
"""A sample as it goes into a tar: key, record as a line of JSON, member name -> array."""


def publish_tar(path: Path, samples: Iterable[TarSample]) -> tuple[int, int, str]:
    """Publish a tar; a sample at a time is in memory.

    Args:
        path: its final name.
        samples: in their order in the tar.

    Returns:
        How many samples, the tar's size in bytes, its sha256 (hex).

    Raises:
        LatentkitError: one line: the disk is full, what was written reads back differently, ...
    """
    digest = hashlib.sha256()
    count = size = 0

    def write(file: BinaryIO) -> None:
        nonlocal count, size
        for key, line, arrays in samples:
            name = quote(key, safe="", errors="surrogatepass").replace(".", "%2E")
            members: dict[str, list[bytes | memoryview]] = {f"{name}.{RECORD}": [line]}
            for member, array in arrays.items():
                numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                members[f"{name}.{member}.npy"] = [npy_header(array), numbers]
            for chunk in _blocks(members):
                digest.update(chunk)
                size += file.write(chunk)
            count += 1
        end = bytes(2 * tarfile.BLOCKSIZE + -(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)
        digest.update(end)
        size += file.write(end)

    def validate(file: BinaryIO) -> None:
        if hashlib.file_digest(file, "sha256").digest() != digest.digest():  # type: ignore[arg-type]
            raise ValueError("it reads back differently")

    publish(path, write, validate)
    return count, size, digest.hexdigest()


def read_tar(path: Path, size: int, start: int, stop: int) -> Iterator[dict[str, bytearray]]:
    """Samples ``start`` to ``stop`` (excluded) of a tar, front to back: member name -> content.

    Args:
        path: the tar.
        size: the bytes that it must have.
        start, stop: positions in the tar; those before are skipped unread.

    Raises:
        LatentkitError: it is missing, has another size, is damaged, or has too few samples.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            there = path.stat().st_size
            if there != size:
                raise ValueError(f"it has {there:,} bytes, the manifest says {size:,}")
            position, current, sample = -1, None, dict[str, bytearray]()
            for member in tar:
                name, _, suffix = member.name.partition(".")
                if name != current:
                    if sample:
                        yield sample
                    position, current, sample = position + 1, name, {}
                if position >= stop:
                    return
                if position >= start:
                    sample[suffix] = _content(file, member, size)
            if sample:
                yield sample
            if position + 1 < stop:
                raise ValueError(f"it has {position + 1:,} samples, the manifest says otherwise")
    except (OSError, ValueError, tarfile.TarError) as error:
        raise LatentkitError(f"{path} cannot be read: {error}: run latentkit.shard again") from None


def _content(file: BinaryIO, member: tarfile.TarInfo, size: int) -> bytearray:
    if not member.isreg() or member.offset_data + member.size > size:
        raise ValueError(f"its member {member.name!r} is no file, or is cut")
    content = bytearray(member.size)
    file.seek(member.offset_data)
    file.readinto(content)  # type: ignore[attr-defined]
    return content


def _blocks(members: Mapping[str, list[bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """Header, content and padding of each member, by name."""
    for name in sorted(members):
        info = tarfile.TarInfo(name)
        info.size = sum(len(part) for part in members[name])
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield from members[name]
        yield bytes(-info.size % tarfile.BLOCKSIZE)
