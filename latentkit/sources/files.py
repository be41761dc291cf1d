"""Files that others may have named, linked or swapped: safe keys, and reads that trust nothing.

A file is opened once, and everything that is said of it (that it is a regular file, its size, its mtime)
is asked of the open descriptor, never of the path again.
"""

import errno
import json
import os
import re
import stat
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentkit.errors import UsageError
from latentkit.sources.source import Source, SourceError, Stat

PICTURE_SUFFIXES = {".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""What a picture's name may end in, in lower case -> the format that it says; the bytes decide what it is."""

MAX_FILE_BYTES = 2**30
"""A larger file is no picture that could be decoded within the limits."""


def is_picture_name(name: str) -> bool:
    """Whether a file is named as a picture is: not hidden, and with a picture's suffix in any case."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and dot + suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")


def printable(path: str | Path) -> str:
    """A path as text for keys, records and messages.

    Bytes that are not UTF-8 and control characters become ``\\xNN``; all else stays.
    """
    if isinstance(path, str) and path.isprintable():
        return path
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)


def key_of(path: str) -> str:
    """The key of a picture: its relative path without the suffix that it has, `printable`."""
    return printable(path.rpartition(".")[0])


def folded(name: str) -> str:
    """What case-blind and normalising disks would take two names for one by."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def sort_by_key(paths: Iterable[str], location: Callable[[str], str]) -> tuple[list[str], list[str]]:
    """(keys, paths) of pictures, in the order of their keys by code point.

    Keys must stay apart on case-blind disks and after Unicode normalisation too.

    Args:
        paths: relative paths of the pictures.
        location: of a path, for messages.

    Raises:
        UsageError: says how many would overwrite each other's outputs, and names the first two.
    """
    keyed = sorted((key_of(path), path) for path in paths)
    seen: dict[str, str] = {}
    pairs: list[tuple[str, str, str]] = []
    for key, path in keyed:
        other = seen.setdefault(folded(key), path)
        if other is not path:
            pairs.append((other, path, key))
    if pairs:
        other, path, key = pairs[0]
        more = f", and so would {len(pairs) - 1:,} more" if len(pairs) > 1 else ""
        raise UsageError(
            f"{location(other)} and {location(path)} would have one key, {key!r}{more} (suffix, case and "
            "Unicode form do not count): rename or remove one of them"
        )
    return [key for key, _ in keyed], [path for _, path in keyed]


def existing_folder(path: str | Path, advice: str) -> Path:
    """The path, ``~`` expanded, when a folder is there.

    Raises:
        UsageError: nothing or something else is there (the text ends in ``advice``), or it may not be read.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{printable(path)} {what}: {advice}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{printable(path)} may not be read: change its permissions")
    return folder


@contextmanager
def opened_file(path: str | Path, *, follow: bool) -> Iterator[int]:
    """A descriptor of a regular file, for reading.

    Args:
        path: the file.
        follow: whether the file itself may be a symbolic link.

    Raises:
        SourceError: it is absent, no regular file, a link where none may be, or not readable.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _source_error(path, error) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SourceError(f"{printable(path)}: not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def stat_of(file: int | str | Path) -> Stat:
    """Size and mtime of an open file, by its descriptor, or of what a path leads to."""
    now = os.stat(file)  # noqa: PTH116 - a descriptor too
    return Stat(now.st_size, now.st_mtime_ns)


def read_whole(descriptor: int, name: str | Path, limit: int = MAX_FILE_BYTES) -> tuple[bytes, Stat]:
    """All bytes of an open file, and the stat that belongs to exactly these bytes.

    Raises:
        SourceError: it is larger than ``limit`` bytes, changed while it was read, or cannot be read.
    """
    before = stat_of(descriptor)
    if before.size > limit:
        raise SourceError(f"{printable(name)}: {before.size:,} bytes, over the limit of {limit:,}")
    try:
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise _source_error(name, error) from None
    if len(data) != before.size or stat_of(descriptor) != before:
        raise SourceError(f"{printable(name)}: changed while it was read")
    return data, before


def _source_error(path: str | Path, error: OSError) -> SourceError:
    reason = {
        errno.ENOENT: "no such file",
        errno.ELOOP: "a symbolic link that may not be followed",
        errno.EACCES: "permission denied",
    }.get(error.errno or 0, (error.strerror or str(error)).lower())
    return SourceError(f"{printable(path)}: {reason}")


def json_lines(path: Path) -> Iterator[Any]:
    """The JSON value of each line of a file, None for a line that has none; an absent file has no lines."""
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        return
    with lines:
        for line in filter(bytes.strip, lines):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


class FileSource(Source):
    """A source whose pictures are files at paths of their own; links to files are followed."""

    @abstractmethod
    def _path(self, index: int) -> str:
        """Where the picture lies."""

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        path = self._path(index)
        with opened_file(path, follow=True) as descriptor:
            return read_whole(descriptor, path)

    def stat(self, index: int) -> Stat | None:
        try:
            return stat_of(self._path(index))
        except OSError:
            return None
