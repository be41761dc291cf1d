"""One pass over a tar archive: both hashes and the headers, from one read of every byte.

Its members are checked strictly: plain files of v7, POSIX (ustar, pax) and GNU tar, nothing else.

`tarfile` reads each header. The walk from header to header is our own, because `tarfile.TarFile` is lenient
where an archive must be proven whole: it takes a damaged header for the end, needs no end-of-archive blocks,
renames and resizes members as PAX records say, and reads headers of any length into memory.

What is only another way to write the same is accepted: names that begin with ``./``, the folder ``./``
itself, and PAX headers that do not change a member's name, size or bytes.
"""

import hashlib
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from latentkit.errors import LatentkitError
from latentkit.sources.files import opened_file, printable, stat_of
from latentkit.sources.imagenet.index import IndexedArchive

_T = TypeVar("_T")

BLOCK = tarfile.BLOCKSIZE
MAX_TAIL = 2**20
"""Most bytes from the end-of-archive blocks to the end: padding of a tar's last record."""

Block = Callable[[int], bytes]
"""Offset, a multiple of 512 -> the block there. Each offset asked for is further on than the last."""

# What is in flight should fit into the processor's cache. Of md5's own speed, on two cores with a page cache
# that holds the file: 95% with 4 x 4 MiB, 96% with 16 x 1 MiB, 82% with 4 x 8 MiB.
CHUNK = 1 << 22
_CHUNKS_AHEAD = 4

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
    member.name = printable("." if member.name == "./" else member.name).removeprefix("./")
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


def read_archive(
    path: Path, parse: Callable[[Block, int], _T], advance: Callable[[int], object]
) -> tuple[IndexedArchive, _T]:
    """Read a file once, from front to back, in large pieces; each hash has a thread of its own.

    Args:
        path: the file.
        parse: is given a way to look at blocks of the file as they pass, and the file's size in bytes.
        advance: told how many bytes were read so far.

    Returns:
        The file as it was read, and what ``parse`` returned.

    Raises:
        TarError: as ``parse`` does, as soon as it does.
        SourceError: it cannot be opened.
        LatentkitError: it changed while it was read, or cannot be read.
    """
    name = printable(path)
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with (
        opened_file(path, follow=True) as descriptor,
        open(descriptor, "rb", closefd=False) as file,
        ThreadPoolExecutor(1) as for_md5,
        ThreadPoolExecutor(1) as for_sha256,
    ):
        stat = stat_of(descriptor)

        def read_pieces() -> Iterator[tuple[int, bytes]]:
            """(offset, piece) of all that is read, each on its way into the hashes."""
            hashing: deque[Future[None]] = deque()
            for start in range(0, stat.size, CHUNK):
                try:
                    piece = file.read(min(CHUNK, stat.size - start))
                except OSError as error:
                    raise LatentkitError(f"{name}: {error.strerror or error}") from error
                if len(piece) < min(CHUNK, stat.size - start):
                    raise LatentkitError(f"{name} became shorter while it was read: start again")
                hashing += for_md5.submit(md5.update, piece), for_sha256.submit(sha256.update, piece)
                while len(hashing) > 2 * _CHUNKS_AHEAD:
                    hashing.popleft().result()
                advance(start + len(piece))
                yield start, piece

        start, piece, pieces = 0, b"", read_pieces()

        def block(at: int) -> bytes:
            nonlocal start, piece
            while at >= start + len(piece):
                start, piece = next(pieces)
            return piece[at - start : at - start + BLOCK]

        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        found = parse(block, stat.size)
        for _ in pieces:
            pass
        if stat_of(descriptor) != stat:
            raise LatentkitError(f"{name} changed while it was read: start again")
    hashes = md5.hexdigest(), sha256.hexdigest()
    return IndexedArchive(str(path), stat.size, stat.mtime_ns, *hashes), found
