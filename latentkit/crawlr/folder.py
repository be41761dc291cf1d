"""The folder of original bytes: what is there, what is whole, and what is fetched into it."""

import hashlib
import os
import stat
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from latentkit.crawlr.links import ForeignError
from latentkit.downloading.client import Client
from latentkit.pixels import DecodeError, Pillow
from latentkit.runtime.readable import escaped
from latentkit.sources import files
from latentkit.sources.source import Fingerprint, SourceError, Stat
from latentkit.stores.storage import publish

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


class Rejected(Exception):  # noqa: N818 - the result of a check, not its failure
    """Bytes that are no photo; the text is one line, `escaped`, the reason for the quarantine ledger.

    Attributes:
        stage: ``type`` when they are not one of the four formats at all, else ``decode``; ``read`` when they
            cannot be read.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(escaped(reason))
        self.stage = stage


class Whole(NamedTuple):
    """A raw file that decoded whole.

    Attributes:
        type: the suffix of its link.
        source: of its bytes.
        fetched: whether it was downloaded for this.
    """

    type: str
    source: Fingerprint
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

    def obtain(self, filename: str, url: str | None, *, there: bool) -> Whole | Rejected:
        """Make sure of a photo: decode the file that is there, else fetch it.

        What does not decode whole is fetched once more; a file that is there stays until another is whole.

        Args:
            filename: which.
            url: where to fetch it; None when it may not be fetched.
            there: whether there is a file; there is, or a URL.

        Returns:
            The photo, or why there is no whole picture to be had.

        Raises:
            FetchError, Stopped, LatentkitError: as `Client.fetch` and `publish`.
        """
        ways = [partial(self._adopt, filename)] * there
        if url is not None:
            ways += [partial(self._download, filename, url)] * (2 - there)
        for way in ways:
            try:
                return way()
            except Rejected as error:
                rejected = error
        return rejected

    def digest(self, url: str) -> str:
        """The sha256 of a URL's bytes, which are not kept. Raises FetchError, Stopped."""
        with tempfile.TemporaryFile() as file:
            self._client.fetch(url, file, files.MAX_FILE_BYTES)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _adopt(self, filename: str) -> Whole:
        path = self._raw / filename
        try:
            with files.opened_file(path, follow=False) as descriptor:
                return self._check(descriptor, path, fetched=False)
        except SourceError as error:
            raise Rejected("read", str(error)) from None

    def _download(self, filename: str, url: str) -> Whole:
        found: list[Whole] = []

        def write(file: BinaryIO) -> None:
            self._client.fetch(url, file, files.MAX_FILE_BYTES)
            file.seek(0)
            found.append(self._check(file.fileno(), self._raw / filename, fetched=True))

        publish(self._raw / filename, write)
        return found[0]

    def _check(self, descriptor: int, path: Path, *, fetched: bool) -> Whole:
        """Decode a photo whole. Its type is what its bytes are, whatever its name says."""
        with self._decoders:
            data, now = files.read_whole(descriptor, path)
            try:
                suffix = _SUFFIXES[Pillow(orient=False, strict=True)(data).format]
            except DecodeError as error:
                if data.startswith(_BEGINNINGS) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
                    raise Rejected("decode", str(error)) from None
                page = any(mark in data[:1024].lower() for mark in _HTML)
                raise Rejected("type", "an HTML page, no picture" if page else str(error)) from None
            return Whole(suffix, Fingerprint(hashlib.sha256(data).hexdigest(), now), fetched)
