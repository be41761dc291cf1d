"""Tar as a stream of blocks: plain files of POSIX ustar and GNU tar, and nothing else.

A parser is a generator. It yields the offset of the block that it wants next, each further on than the last,
is sent the 512 bytes there, and returns what it found. So one parser serves a file that is read from front to
back and one of which only the headers are read, and a tar within a tar needs nothing of its own.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

from latentkit.sources.files import printable

_T = TypeVar("_T")

BLOCK = 512
MAX_TAIL = 2**20
"""Most bytes from the end-of-archive blocks to the end: what a tar's last record is filled up with."""

Parser = Generator[int, bytes, _T]

_ZEROS = bytes(BLOCK)
_MAGIC = (b"ustar\0", b"ustar ", bytes(6))
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"x": "a PAX header",
    b"g": "a global PAX header",
    b"L": "a GNU long name",
    b"K": "a GNU long link",
}


class TarError(ValueError):
    """The bytes are no such tar; the text says what and where."""


class CutError(TarError):
    """The tar ends before its end."""


class ForeignError(TarError):
    """The tar is whole up to here, and holds what does not belong there."""


class Member(NamedTuple):
    """A file in a tar: its name, where its bytes lie in the outermost file, where the next header does."""

    name: str
    offset: int
    size: int
    next: int


def next_member(at: int, end: int, archive: str) -> Parser[Member | None]:
    """The member whose header begins at ``at``; None where the end-of-archive blocks are.

    Args:
        at: a multiple of 512.
        end: where the tar ends.
        archive: its name, for messages.

    Raises:
        CutError: the tar ends in the header or in the member, or without its end-of-archive blocks.
        ForeignError: the header is of anything but a plain file.
        TarError: the header is damaged.
    """
    if at + BLOCK > end:
        raise CutError(f"{archive} ends at byte {end:,} without end-of-archive blocks")
    header = yield at
    if header == _ZEROS:
        if at + 2 * BLOCK > end:
            raise CutError(f"{archive} ends at byte {end:,} within its end-of-archive blocks")
        if (yield at + BLOCK) != _ZEROS:
            raise TarError(f"{archive} has a block of zeros among its members, at byte {at:,}")
        if end - at > MAX_TAIL:
            raise TarError(f"{archive} goes on after its end, at byte {at:,}")
        return None
    name, size = _read(header, at, archive)
    stop = at + BLOCK + size
    if stop > end:
        raise CutError(f"{archive} ends at byte {end:,}, within {name}")
    return Member(name, at + BLOCK, size, stop + -size % BLOCK)


def _read(header: bytes, at: int, archive: str) -> tuple[str, int]:
    """Name and size of a plain file."""
    if header[257:263] not in _MAGIC or _number(header[148:156]) != sum(header) - sum(header[148:156]) + 256:
        raise TarError(f"{archive} has no tar header at byte {at:,}")
    name = printable(header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"))
    kind = header[156:157]
    if kind not in (b"0", b"\0"):
        what = _KINDS.get(kind, f"of the unknown kind {kind!r}")
        raise ForeignError(f"{archive} holds {name}, {what}")
    if header[257:263] == b"ustar\0" and header[345:346] != b"\0":
        raise ForeignError(f"{archive} holds {name} in a folder")
    size = _number(header[124:136])
    if size is None:
        raise TarError(f"{archive} has a header without a size at byte {at:,}")
    return name, size


def _number(field: bytes) -> int | None:
    """An octal number, filled up with spaces and zero bytes; None for anything else."""
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


class Feed(Generic[_T]):
    """Feeds a parser with what is read from front to back.

    Attributes:
        result: what the parser returned; None until it has.
    """

    def __init__(self, parser: Parser[_T]) -> None:
        self._parser = parser
        self._wanted = -1
        self.result: _T | None = None
        self._advance(None)

    def feed(self, start: int, data: memoryview) -> None:
        """Take the bytes from offset ``start``, a multiple of 512; only the last piece may be of odd length.

        Raises:
            TarError: as the parser does.
        """
        end = start + len(data)
        while self.result is None and self._wanted + BLOCK <= end:
            at = self._wanted - start
            self._advance(bytes(data[at : at + BLOCK]))

    def _advance(self, block: bytes | None) -> None:
        try:
            self._wanted = next(self._parser) if block is None else self._parser.send(block)
        except StopIteration as end:
            self.result = end.value
