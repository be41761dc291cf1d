"""The two folders of a library: the original bytes, and ``<filename>.<type>``, relative links to them."""

import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Set
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from latentkit.downloading.client import Client
from latentkit.pixels import DecodeError, Pillow
from latentkit.runtime.readable import escaped
from latentkit.sources import files
from latentkit.sources.library import LinkTargets
from latentkit.sources.source import Fingerprint, SourceError, Stat
from latentkit.stores.storage import publish

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


class ForeignError(Exception):
    """Something that no sync made is where a link or a photo should be; the text is one line."""


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


class Change(NamedTuple):
    """What makes a photo's link right.

    Attributes:
        path: the link.
        target: what it leads to, relative to its folder.
        change: what becomes of it: ``created``, ``updated`` or ``unchanged``.
        stale: links to the photo under other names, which go.
    """

    path: Path
    target: str
    change: str
    stale: tuple[Path, ...]


class Links:
    """The folder of links as it was when this was made. Changes nothing.

    Args:
        root: the folder; need not exist.
        raw: the folder of the photos.
    """

    def __init__(self, root: Path, raw: Path) -> None:
        self._root = root
        self._raw = raw
        self._leads = LinkTargets(root, raw)
        self._to_raw = PurePosixPath(os.path.relpath(raw.resolve(), root.resolve()))
        self._names: dict[str, list[str]] = {}
        if root.is_dir():
            for name in sorted(os.listdir(root)):  # noqa: PTH208 - names, not 60,000 paths
                if files.is_picture_name(name):
                    self._names.setdefault(files.folded(files.key_of(name)), []).append(name)

    def change(self, filename: str, suffix: str) -> Change:
        """What the photo's link needs.

        Raises:
            ForeignError: a file, or a link that leads elsewhere, has its name or would share its key.
        """
        right = self._root / f"{filename}.{suffix}"
        target = str(self._to_raw / filename)
        names = self._names.get(files.folded(filename), ())
        ours = {self._root / name: self._target(name, filename) for name in names}
        stale = tuple(path for path in ours if path != right)
        kept = "unchanged" if ours.get(right) == target and not stale else "updated"
        return Change(right, target, kept if ours else "created", stale)

    def unlisted(self, listed: Set[str]) -> set[str]:
        """Keys of the links into the folder of photos whose photo is not listed, under neither name.

        Args:
            listed: filenames.
        """
        there = {files.folded(filename) for filename in listed}
        return {
            files.key_of(name)
            for key, names in self._names.items()
            if key not in there
            for name in names
            if (target := self._leads(name)) and target.photo and files.folded(target.photo) not in there
        }

    def _target(self, name: str, filename: str) -> str:
        """Where a link leads, when it is one to this photo, wherever the library once lay."""
        path, target = files.printable(self._root / name), self._leads(name)
        if target is None:
            raise ForeignError(f"{path} is not a link: left as it is")
        if PurePosixPath(target.text).parts[-2:] != (self._raw.name, filename):
            raise ForeignError(f"{path} leads to {files.printable(target.text)}: left as it is")
        return target.text
