"""The folder of original bytes: what is there, what is whole, and what is fetched into it."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from latentkit.crawlr.check import Rejected, check
from latentkit.crawlr.links import ForeignError
from latentkit.downloading.client import Client
from latentkit.sources import files
from latentkit.sources.source import SourceError, Stat
from latentkit.stores.storage import publish


@dataclass(frozen=True, slots=True)
class Whole:
    """A raw file that decoded whole.

    Attributes:
        type: the suffix of its link.
        sha256, stat: of its bytes.
        fetched: whether it was downloaded for this.
    """

    type: str
    sha256: str
    stat: Stat
    fetched: bool


class PhotoFolder:
    """``<raw>/<filename>``. Any number of threads may ask.

    Args:
        raw: the folder; need not exist.
        client: for what is not there.
    """

    def __init__(self, raw: Path, client: Client) -> None:
        self._raw = raw
        self._client = client
        self._decoders = threading.BoundedSemaphore(os.cpu_count() or 1)

    def look(self, filename: str) -> Stat | None:
        """Size and mtime of the file; None when there is none.

        Raises:
            ForeignError: a link, a folder or another thing has its name.
        """
        path = self._raw / filename
        try:
            there = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(there.st_mode):
            raise ForeignError(f"{files.printable(path)} is no regular file: left as it is")
        return Stat(there.st_size, there.st_mtime_ns)

    def obtain(self, filename: str, url: str | None, *, there: bool) -> Whole:
        """Make sure of a photo: decode the file that is there, else fetch it.

        What does not decode whole is fetched once more; a file that is there stays until another is whole.

        Args:
            filename: which.
            url: where to fetch it; None when it may not be fetched.
            there: whether there is a file; there is, or a URL.

        Raises:
            Rejected: there is no whole picture to be had.
            FetchError, Stopped, LatentkitError: as `Client.fetch` and `publish`.
        """
        tries = 2
        if there:
            try:
                return self._adopt(filename)
            except Rejected:
                if url is None:
                    raise
                tries = 1
        assert url is not None, "there is a file or a URL"
        while True:
            tries -= 1
            try:
                return self._download(filename, url)
            except Rejected:
                if not tries:
                    raise

    def digest(self, url: str) -> str:
        """The sha256 of a URL's bytes, which are not kept. Raises FetchError, Stopped."""
        sink = _Digest()
        self._client.fetch(url, sink, files.MAX_FILE_BYTES)
        return sink.hexdigest()

    def _adopt(self, filename: str) -> Whole:
        path = self._raw / filename
        try:
            with self._decoders, files.opened_file(path, follow=False) as descriptor:
                data, now = files.read_whole(descriptor, path)
                return Whole(check(data), hashlib.sha256(data).hexdigest(), now, fetched=False)
        except SourceError as error:
            raise Rejected("read", str(error)) from None

    def _download(self, filename: str, url: str) -> Whole:
        found: list[Whole] = []

        def write(file: BinaryIO) -> None:
            self._client.fetch(url, file, files.MAX_FILE_BYTES)
            with self._decoders:
                file.seek(0)
                data = file.read()
                digest = hashlib.sha256(data).hexdigest()
                found.append(Whole(check(data), digest, files.stat_of(file.fileno()), fetched=True))

        publish(self._raw / filename, write)
        return found[0]


class _Digest:
    """A sink that keeps nothing but the hash of what it was given."""

    def __init__(self) -> None:
        self.truncate()

    def write(self, data: bytes, /) -> None:
        self._hash.update(data)

    def seek(self, offset: int, /) -> None:
        assert offset == 0, "a sink begins again or goes on"

    def truncate(self) -> None:
        self._hash = hashlib.sha256()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
