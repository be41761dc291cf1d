"""Tar as a stream of blocks: plain files of v7, POSIX (ustar, pax) and GNU tar, and nothing else.

What is merely a way to write the same is taken: names that begin with ``./``, the folder ``./`` itself, and
PAX headers that say nothing of a member's name, size or bytes.

A parser is a generator. It yields the offset of the block that it wants next, each further on than the last,
is sent the 512 bytes there, and returns what it found. So one parser serves a file that is read from front to
back and one of which only the headers are read, and a tar within a tar needs nothing of its own.
"""

from __future__ import annotations

import os
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
_PLAIN, _FOLDER, _PAX = (b"0", b"\0"), b"5", (b"x", b"g")
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"L": "a GNU long name",
    b"K": "a GNU long link",
}
_MAX_PAX = 2**16
_SAYS_NOTHING = frozenset((b"atime", b"comment", b"ctime", b"gid", b"gname", b"mtime", b"uid", b"uname"))
"""PAX records that leave a member's name, size and bytes as they are."""


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
        ForeignError: the header is of anything but a plain file, or has another name or size by PAX.
        TarError: the header is damaged.
    """
    while True:
        if at + BLOCK > end:
            raise CutError(f"{archive} ends at byte {end:,} without end-of-archive blocks")
        header = yield at
        if header == _ZEROS:
            break
        kind, member = _read(header, at, archive)
        if kind not in _PAX and member.offset + member.size > end:
            raise CutError(f"{archive} ends at byte {end:,}, within {member.name}")
        if kind in _PLAIN:
            return member
        if kind in _PAX:
            yield from _check_pax(member, end, archive)
        at = member.next
    if at + 2 * BLOCK > end:
        raise CutError(f"{archive} ends at byte {end:,} within its end-of-archive blocks")
    if (yield at + BLOCK) != _ZEROS:
        raise TarError(f"{archive} has a block of zeros among its members, at byte {at:,}")
    if end - at > MAX_TAIL:
        raise TarError(f"{archive} goes on after its end, at byte {at:,}")
    return None


def _read(header: bytes, at: int, archive: str) -> tuple[bytes, Member]:
    """Kind and member: a plain file, the folder ``./``, or a PAX header."""
    if header[257:263] not in _MAGIC or _number(header[148:156]) != sum(header) - sum(header[148:156]) + 256:
        raise TarError(f"{archive} has no tar header at byte {at:,}")
    name = printable(header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"))
    kind = header[156:157]
    if kind in (*_PLAIN, _FOLDER) and name == "./":
        kind = _FOLDER  # v7 has no kind of its own for it
    elif kind not in (*_PLAIN, *_PAX):
        what = _KINDS.get(kind, f"of the unknown kind {kind!r}")
        raise ForeignError(f"{archive} holds {name}, {what}")
    if kind in _PLAIN and header[257:263] == b"ustar\0" and header[345:346] != b"\0":
        raise ForeignError(f"{archive} holds {name} in a folder")
    size = _number(header[124:136])
    if size is None:
        raise TarError(f"{archive} has a header without a size at byte {at:,}")
    start = at + BLOCK
    return kind, Member(name.removeprefix("./"), start, size, start + size + -size % BLOCK)


def _check_pax(header: Member, end: int, archive: str) -> Parser[None]:
    """Refuse a PAX header that says more than who made a member, and when."""
    if header.size > _MAX_PAX:
        raise ForeignError(f"{archive} holds a PAX header of {header.size:,} bytes")
    if header.next > end:
        raise CutError(f"{archive} ends at byte {end:,}, within a PAX header")
    content = b""
    for at in range(header.offset, header.next, BLOCK):
        content += yield at
    content = content[: header.size]
    while content:
        digits = content.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        if not length or content[length - 1 : length] != b"\n":
            raise TarError(f"{archive} has a damaged PAX header at byte {header.offset:,}")
        key = content[len(digits) + 1 : length].partition(b"=")[0]
        if key not in _SAYS_NOTHING:
            raise ForeignError(f"{archive} holds a PAX header that sets {printable(os.fsdecode(key))}")
        content = content[length:]


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
