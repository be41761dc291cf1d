"""One pass over an archive: both hashes and the headers, from one read of every byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from latentkit.errors import LatentkitError
from latentkit.imagenet.tar import Feed, Parser
from latentkit.sources import files
from latentkit.sources.source import Stat

_T = TypeVar("_T")

# What is in flight should fit into the processor's cache. Of md5's own speed, on two cores with a page cache
# that holds the file: 95% with 4 x 4 MiB, 96% with 16 x 1 MiB, 82% with 4 x 8 MiB.
CHUNK = 1 << 22
_CHUNKS_AHEAD = 4


@dataclass(frozen=True)
class Reading(Generic[_T]):
    """A file that was read whole: its stat, both hashes (hex), and what its parser returned, if any."""

    stat: Stat
    md5: str
    sha256: str
    found: _T | None


def read_archive(path: Path, parser: Parser[_T] | None, advance: Callable[[int], object]) -> Reading[_T]:
    """Read a file once, from front to back, in large pieces; each hash has a thread of its own.

    Args:
        path: the file.
        parser: gets the headers that it wants; None for a file that is only hashed.
        advance: told how many more bytes were read.

    Raises:
        TarError: as the parser does, as soon as it does.
        SourceError: it cannot be opened.
        LatentkitError: it changed while it was read, or cannot be read.
    """
    feed = Feed(parser) if parser is not None else None
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    buffers = [bytearray(CHUNK) for _ in range(_CHUNKS_AHEAD)]
    pending: list[list[Future[None]]] = [[] for _ in buffers]
    with (
        files.opened_file(path, follow=True) as descriptor,
        ThreadPoolExecutor(1) as for_md5,
        ThreadPoolExecutor(1) as for_sha256,
    ):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        stat = files.stat_of(descriptor)
        for number, start in enumerate(range(0, stat.size, CHUNK)):
            slot = number % _CHUNKS_AHEAD
            for future in pending[slot]:
                future.result()
            piece = memoryview(buffers[slot])[: min(CHUNK, stat.size - start)]
            _fill(descriptor, piece, path)
            pending[slot] = [for_md5.submit(md5.update, piece), for_sha256.submit(sha256.update, piece)]
            if feed is not None:
                feed.feed(start, piece)
            advance(len(piece))
        if files.stat_of(descriptor) != stat:
            raise LatentkitError(f"{files.printable(path)} changed while it was read: start again")
    return Reading(stat, md5.hexdigest(), sha256.hexdigest(), feed.result if feed else None)


def _fill(descriptor: int, piece: memoryview, path: Path) -> None:
    """Read exactly so many bytes."""
    done = 0
    while done < len(piece):
        try:
            count = os.readv(descriptor, [piece[done:]])
        except OSError as error:
            raise LatentkitError(f"{files.printable(path)}: {error.strerror or error}") from error
        if count == 0:
            raise LatentkitError(f"{files.printable(path)} became shorter while it was read: start again")
        done += count
