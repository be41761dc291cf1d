"""The pictures of an archive as files: ``<root>/{train,val}/<wnid>/*.JPEG``, whole or not done.

``<root>/.latentkit/<split>.json`` says ``"complete": false`` from before the first file is written, and with
the counts ``true`` once the last is on the disk. A file is there whole or not at all, and has the archive's
mtime. By size and mtime a second run knows what it need not write again, and encoding the tree knows what
was encoded from the archive, and the other way round.
"""

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.prediction.plan import check_room
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable, stat_of
from latentkit.sources.imagenet.archive import ImageNetArchive
from latentkit.sources.imagenet.official import SUFFIX
from latentkit.sources.imagenet.tree import marker_path, read_marker
from latentkit.sources.source import Stat
from latentkit.stores.storage import Publication, publish_json, publish_many, remove_temporaries

BATCH = 1024
"""Pictures that share one fsync of each folder."""

_FILE_SYSTEM_BLOCK = 4096


def extract(sources: Iterable[ImageNetArchive], root: Path, console: Console) -> bool:
    """Write the missing pictures of all splits; whether all are there now (False: interrupted).

    A picture is missing unless a file with its size and the archive's mtime is there.

    Args:
        sources: a split each.
        root: the tree's folder.
        console: for the progress reports.

    Raises:
        LatentkitError: no room, or the tree holds a picture that an archive does not.
    """
    extractions = [(source, _find_missing(source, root)) for source in sources]
    lengths = (source.length(index) for source, missing in extractions for index in missing)
    check_room(root, sum(length + -length % _FILE_SYSTEM_BLOCK for length in lengths), "extract_dir")
    with Interrupts() as interrupts:
        whole = all(_write(source, missing, root, console, interrupts) for source, missing in extractions)
    if whole:
        console.print(f"tree: {printable(root)}")
    return whole


def _find_missing(source: ImageNetArchive, root: Path) -> list[int]:
    """Indices of the missing pictures, once the temporaries of a killed run are removed."""
    folder = root / source.split
    remove_temporaries(folder, below=True)
    missing: list[int] = []
    indices = enumerate(source.keys())
    for wnid, of_class in itertools.groupby(indices, key=lambda pair: pair[1].split("/")[1]):
        there = _stats(folder / wnid)
        names = {key.rpartition("/")[2] + SUFFIX: index for index, key in of_class}
        missing += [index for name, index in names.items() if there.pop(name, None) != source.stat(index)]
        if there:
            raise LatentkitError(
                f"{printable(folder / wnid / min(there))} is not in {printable(source.archive.path)}: "
                "remove it, or give another extract_dir"
            )
    return missing


def _write(
    source: ImageNetArchive, missing: list[int], root: Path, console: Console, interrupts: Interrupts
) -> bool:
    """Write what is missing of a split until it is interrupted; whether all is there now."""
    marker = {
        "complete": True,
        "split": source.split,
        "classes": len(source.classes),
        "pictures": len(source),
        "archive_sha256": source.archive.sha256,
        "class_names": dict(zip(source.classes, source.class_names, strict=False)),
    }
    path = marker_path(root, source.split)
    if not missing and read_marker(root, source.split) == marker:
        return True
    publish_json(path, marker | {"complete": False})
    with ProgressReport(f"extracting {source.split}", len(missing), console) as report:
        for start in range(0, len(missing), BATCH):
            if interrupts.asked:
                return False
            batch = sorted(missing[start : start + BATCH], key=source.offset)
            publish_many([_publication(source, index, root) for index in batch])
            report.advance(len(batch))
    publish_json(path, marker)
    return True


def _publication(source: ImageNetArchive, index: int, root: Path) -> Publication:
    def write(file: BinaryIO) -> None:
        data, stat = source.read(index)
        file.write(data)
        file.flush()
        os.utime(file.fileno(), ns=(stat.mtime_ns, stat.mtime_ns))

    def validate(file: BinaryIO) -> None:
        if file.read() != source.read(index)[0]:
            raise ValueError("it reads back differently")

    return Publication(root / f"{source[index].key}{SUFFIX}", write, validate)


def _stats(folder: Path) -> dict[str, Stat | None]:
    """Size and mtime of every file in a folder, by name; None for what is no file."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: stat_of(entry.path) if entry.is_file(follow_symlinks=False) else None
                for entry in entries
            }
    except FileNotFoundError:
        return {}
