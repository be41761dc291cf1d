"""The members of a tar, checked strictly: plain files of v7, POSIX (ustar, pax) and GNU tar, nothing else.

`tarfile` reads each header. The walk from header to header is our own, because `tarfile.TarFile` is lenient
where an archive must be proven whole: it takes a damaged header for the end, needs no end-of-archive blocks,
renames and resizes members as PAX records say, and reads headers of any length into memory.

What is only another way to write the same is accepted: names that begin with ``./``, the folder ``./``
itself, and PAX headers that do not change a member's name, size or bytes.
"""

import os
import re
import tarfile
from collections.abc import Callable, Iterator

from latentkit.sources.files import printable

BLOCK = tarfile.BLOCKSIZE
MAX_TAIL = 2**20
"""Most bytes from the end-of-archive blocks to the end: padding of a tar's last record."""

Block = Callable[[int], bytes]
"""Offset, a multiple of 512 -> the block there. Each offset asked for is further on than the last."""

_ZEROS = bytes(BLOCK)
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a GNU long name",
    tarfile.GNUTYPE_LONGLINK: "a GNU long link",
}
_MAX_PAX = 2**16
_PAX_RECORD = re.compile(rb"(\d{1,5}) ([^=]+)=")
_HARMLESS = frozenset((b"atime", b"comment", b"ctime", b"gid", b"gname", b"mtime", b"uid", b"uname"))
"""PAX records that leave a member's name, size and bytes as they are."""


class TarError(ValueError):
    """The bytes are no such tar; the text says what and where."""


class CutError(TarError):
    """The tar ends before its end."""


class ForeignError(TarError):
    """The tar is whole up to here, and holds what does not belong there."""


def members(block: Block, start: int, end: int, archive: str) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar that lies in ``[start, end)`` of a file: name, size and ``offset_data``.

    Args:
        block: reads the file. Of the tar only headers are read.
        start: a multiple of 512; a tar within a tar begins at its member's ``offset_data``.
        end: in the file too.
        archive: its name, for messages.

    Raises:
        CutError: the tar ends in a header or in a member, or without its end-of-archive blocks.
        ForeignError: a member is anything but a plain file, or has another name or size by PAX.
        TarError: a header is damaged, or the tar goes on after its end.
    """
    at = start
    while True:
        if at + BLOCK > end:
            raise CutError(f"{archive} ends at byte {end:,} without end-of-archive blocks")
        header = block(at)
        if header == _ZEROS:
            break
        member = _parse(header, at, archive)
        at = member.offset_data + member.size + -member.size % BLOCK
        if member.type in _PAX:
            _check_pax(block, member, end, archive)
        elif member.offset_data + member.size > end:
            raise CutError(f"{archive} ends at byte {end:,}, within {member.name}")
        elif member.name != ".":
            yield member
    if at + 2 * BLOCK > end:
        raise CutError(f"{archive} ends at byte {end:,} within its end-of-archive blocks")
    if block(at + BLOCK) != _ZEROS:
        raise TarError(f"{archive} has a block of zeros among its members, at byte {at:,}")
    if end - at > MAX_TAIL:
        raise TarError(f"{archive} goes on after its end, at byte {at:,}")


def _parse(header: bytes, at: int, archive: str) -> tarfile.TarInfo:
    """The header at offset `at`: of a plain file, of the folder ``.``, or a PAX header."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        member = None
    if member is None or member.size < 0:  # GNU's base 256 has a sign
        raise TarError(f"{archive} has no tar header at byte {at:,}")
    member.name = printable(member.name.rstrip("/") if member.name == "./" else member.name).removeprefix(
        "./"
    )
    if member.name != "." and member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, *_PAX):
        what = _KINDS.get(member.type, f"of the unknown kind {member.type!r}")
        raise ForeignError(f"{archive} holds {member.name}{'/' * member.isdir()}, {what}")
    member.offset_data = at + BLOCK
    return member


def _check_pax(block: Block, header: tarfile.TarInfo, end: int, archive: str) -> None:
    """Refuse a PAX header that says more than who made a member, and when."""
    if header.size > _MAX_PAX:
        raise ForeignError(f"{archive} holds a PAX header of {header.size:,} bytes")
    blocks = range(header.offset_data, header.offset_data + header.size, BLOCK)
    if blocks and blocks[-1] + BLOCK > end:
        raise CutError(f"{archive} ends at byte {end:,}, within a PAX header")
    content = b"".join(map(block, blocks))[: header.size]
    while content:
        record = _PAX_RECORD.match(content)
        length = int(record[1]) if record else 0
        if record is None or content[length - 1 : length] != b"\n" or length < record.end():
            raise TarError(f"{archive} has a damaged PAX header at byte {header.offset_data:,}")
        if record[2] not in _HARMLESS:
            raise ForeignError(f"{archive} holds a PAX header that sets {printable(os.fsdecode(record[2]))}")
        content = content[length:]
