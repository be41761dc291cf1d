"""The pictures of an archive as files: ``<root>/{train,val}/<wnid>/*.JPEG``, whole or not done.

``<root>/.latentkit/<split>.json`` says ``"complete": false`` from before the first file is written, and with
the counts ``true`` once the last is on the disk. A file is there whole or not at all, and has the archive's
mtime. By size and mtime a second run knows what it need not write again, and encoding the tree knows what
was encoded from the archive, and the other way round.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.prediction.plan import check_room
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable, stat_of_path
from latentkit.sources.imagenet import ImageNetArchive
from latentkit.sources.imagenet.names import SUFFIX
from latentkit.sources.imagenet.tree import marker_path, read_marker
from latentkit.sources.source import Stat
from latentkit.stores.publish import Publication, publish_json, publish_many, remove_temporaries

BATCH = 1024
"""Pictures that share one fsync of each folder."""

_FILE_SYSTEM_BLOCK = 4096


def extract(sources: Iterable[ImageNetArchive], root: Path, console: Console) -> bool:
    """Write the pictures of all splits that are missing; whether all are there now (else: interrupted).

    Args:
        sources: a split each.
        root: the tree's folder.
        console: for the progress reports.

    Raises:
        LatentkitError: no room, or the tree holds a picture that an archive does not.
    """
    extractions = [Extraction(source, root) for source in sources]
    check_room(root, sum(extraction.bytes for extraction in extractions), "extract_dir")
    stopped: list[bool] = []
    with Interrupts(lambda: stopped.append(True)):
        whole = all(extraction.run(console, stopped) for extraction in extractions)
    if whole:
        console.print(f"tree: {printable(root)}")
    return whole


class Extraction:
    """The extraction of one split.

    Args:
        source: the pictures.
        root: the tree's folder.

    Attributes:
        missing: indices of the pictures that are not there with their size and the archive's mtime.
        bytes: what these will take on the disk.

    Raises:
        LatentkitError: the tree holds a picture that the archive does not.
    """

    def __init__(self, source: ImageNetArchive, root: Path) -> None:
        self._source = source
        self._root = root
        remove_temporaries(root / source.split, below=True)
        self.missing = self._find_missing()
        blocks = sum(-(-source.length(index) // _FILE_SYSTEM_BLOCK) for index in self.missing)
        self.bytes = blocks * _FILE_SYSTEM_BLOCK

    def run(self, console: Console, stopped: list[bool]) -> bool:
        """Write what is missing until it is `stopped`; whether all is there now."""
        split = self._source.split
        marker = marker_path(self._root, split)
        if not self.missing and read_marker(self._root, split) == self._marker(complete=True):
            return True
        publish_json(marker, self._marker(complete=False))
        with ProgressReport(f"extracting {split}", len(self.missing), console) as report:
            for start in range(0, len(self.missing), BATCH):
                if stopped:
                    return False
                batch = sorted(self.missing[start : start + BATCH], key=self._source.offset)
                publish_many([self._file(index) for index in batch])
                report.advance(len(batch))
        publish_json(marker, self._marker(complete=True))
        return True

    def _marker(self, *, complete: bool) -> dict[str, Any]:
        archive = self._source.archive
        return {
            "complete": complete,
            "split": self._source.split,
            "classes": len(self._source.classes),
            "pictures": len(self._source),
            "archive_sha256": archive.sha256,
            "class_names": dict(zip(self._source.classes, self._source.class_names, strict=False)),
        }

    def _find_missing(self) -> list[int]:
        missing: list[int] = []
        folder, there = self._root / self._source.split, dict[str, Stat | None]()
        wnid = ""
        for index, key in enumerate(self._source.keys()):
            _, its_wnid, stem = key.split("/")
            if its_wnid != wnid:
                self._refuse_strangers(folder / wnid, there)
                wnid, there = its_wnid, _stats(folder / its_wnid)
            if there.pop(stem + SUFFIX, None) != self._source.stat(index):
                missing.append(index)
        self._refuse_strangers(folder / wnid, there)
        return missing

    def _refuse_strangers(self, folder: Path, names: Iterable[str]) -> None:
        if stranger := min(names, default=None):
            raise LatentkitError(
                f"{printable(folder / stranger)} is not in {printable(self._source.archive.path)}: "
                "remove it, or give another extract_dir"
            )

    def _file(self, index: int) -> Publication:
        source = self._source
        data = b""

        def write(file: BinaryIO) -> None:
            nonlocal data
            data, stat = source.read(index)
            file.write(data)
            file.flush()
            assert stat is not None
            os.utime(file.fileno(), ns=(stat.mtime_ns, stat.mtime_ns))

        def validate(file: BinaryIO) -> None:
            nonlocal data
            if file.read() != data:
                raise ValueError("it reads back differently")
            data = b""

        return Publication(self._root / f"{source[index].key}{SUFFIX}", write, validate)


def _stats(folder: Path) -> dict[str, Stat | None]:
    """Size and mtime of every file in a folder, by name; None of what is no file."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: stat_of_path(Path(entry.path)) if entry.is_file(follow_symlinks=False) else None
                for entry in entries
            }
    except FileNotFoundError:
        return {}
