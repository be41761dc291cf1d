"""Storage: a handful of operations that leave whole files, or none.

A file is at its name whole and on the disk, or it is not there. Locally: an exclusive temporary in the same
folder, write, validate what was written, fsync, rename, fsync of the folder. A killed process leaves the old
file or the new one, and at worst a temporary that the next run removes. Many files share one fsync of each
folder.

What changes the disk goes through `LocalStorage`; `using` puts another in its place.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from latentkit.errors import LatentkitError

# fsync waits for the disk, not for the processor, and file systems serve many at once. 256 files of 8 KB on
# a quick disk: 78 ms with one thread, 44 with four, 48 with sixteen; slow disks gain more. (One Linux syncfs:
# 12 ms; but it waits for every other writer of the file system too.)
_THREADS = 16

# Process ids repeat on other hosts of a shared disk; serials that start by chance do not.
_serial = itertools.count(secrets.randbits(32))
_TEMPORARY = re.compile(r"\.latentkit-\d+-\d+\.tmp")

_ADVICE = {
    errno.ENOSPC: "free some space and start again, finished work is kept",
    errno.EDQUOT: "free some of the quota and start again, finished work is kept",
    errno.EFBIG: "raise the file size limit (ulimit -f) and start again, finished work is kept",
    errno.EROFS: "choose an output_dir on a writable disk",
    errno.EACCES: "choose another output_dir or allow writing there",
    errno.EPERM: "choose another output_dir or allow writing there",
}


_OnFile = Callable[[BinaryIO], object]


@dataclass(frozen=True, slots=True)
class Publication:
    """One file to publish.

    Attributes:
        path: its final name; missing folders are made.
        write: writes the content into the file that it is given.
        validate: reads the content back, from the start, and raises ValueError when it is not what was meant.
    """

    path: Path
    write: _OnFile
    validate: _OnFile | None = None


class LocalStorage:
    """All that changes a local or mounted file system for good; each raises OSError."""

    def sync(self, descriptor: int) -> None:
        """Bring an open file or folder onto the disk."""
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Over what is there."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Raises FileNotFoundError where there is none."""
        path.unlink()


_local = LocalStorage()


@contextlib.contextmanager
def using(storage: LocalStorage) -> Iterator[None]:
    """Work on another storage, in all threads."""
    global _local
    before, _local = _local, storage
    try:
        yield
    finally:
        _local = before


def publish(path: Path, write: _OnFile, validate: _OnFile | None = None) -> None:
    """Publish one file; see `publish_many`."""
    publish_many([Publication(path, write, validate)])


def publish_many(files: Sequence[Publication], then: Sequence[Publication] = ()) -> None:
    """Publish files: all are written and on the disk before the first of them takes its name.

    After an error no temporary is left, and each path holds its old content or its whole new one.

    Args:
        files: what to publish.
        then: what mentions these: written at the same time, and named when they have their names.

    Raises:
        LatentkitError: one line with the path and the cause: disk full, read-only, not what was meant ...
    """
    temporaries: dict[Path, Path] = {}
    try:
        for folder in sorted({file.path.parent for file in (*files, *then)}):
            make_folder(folder)
        temporaries |= {file.path: _temporary(file.path) for file in (*files, *then)}
        if len(temporaries) == 1:
            _write((*files, *then)[0], temporaries)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(lambda file: _write(file, temporaries), (*files, *then)))
        for some in (files, then):
            for file in some:
                with _naming(file.path):
                    _local.rename(temporaries[file.path], file.path)
            _sync_folders(file.path.parent for file in some)
    except BaseException:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                _local.unlink(temporary)
        raise


def _write(file: Publication, temporaries: Mapping[Path, Path]) -> None:
    """Write, sync and validate a file under its temporary name."""
    with _naming(file.path):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporaries[file.path], flags, 0o666)
        with os.fdopen(descriptor, "w+b") as handle:
            file.write(handle)
            handle.flush()
            if handle.tell() != os.fstat(descriptor).st_size:
                raise OSError(f"it did not become {handle.tell()} bytes long")
            if file.validate is not None:
                handle.seek(0)
                try:
                    file.validate(handle)
                except ValueError as error:
                    raise OSError(f"what was written is not what was meant: {error}") from error
            _local.sync(descriptor)


def publish_bytes(path: Path, content: bytes) -> None:
    """Publish one file with this content."""

    def validate(file: BinaryIO) -> None:
        if file.read() != content:
            raise ValueError("it reads back differently")

    publish(path, lambda file: file.write(content), validate)


def publish_json(path: Path, value: Any) -> None:
    """Publish a JSON value: indented, ASCII, in the order given, with a final newline."""
    publish_bytes(path, (json.dumps(value, indent=2) + "\n").encode("ascii"))


def publish_links(links: Mapping[Path, str]) -> None:
    """Publish symbolic links, path -> target, each in place of what is there, and sync their folders."""
    for path, target in links.items():
        make_folder(path.parent)
        temporary = _temporary(path)
        with _naming(path):
            temporary.symlink_to(target)
            try:
                _local.rename(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    _sync_folders(path.parent for path in links)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each on the disk before anything lies in it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _naming(folder):
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names (new, renamed, removed) onto the disk."""
    with _naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _local.sync(descriptor)
        finally:
            os.close(descriptor)


def _sync_folders(folders: Iterable[Path]) -> None:
    for folder in sorted({*folders}):
        sync_folder(folder)


def append(path: Path, content: bytes) -> None:
    """Append to a file and sync once. A failed append is taken back; a killed one may leave a cut last line.

    Raises:
        LatentkitError: one line with the path and the cause.
    """
    make_folder(path.parent)
    new = not path.exists()
    with _naming(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            _local.sync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
    if new:
        sync_folder(path.parent)


def remove_many(paths: Iterable[Path]) -> int:
    """Remove files that may already be gone, and sync their folders. Returns how many there were."""
    folders: list[Path] = []
    for path in paths:
        with _naming(path), contextlib.suppress(FileNotFoundError):
            _local.unlink(path)
            folders.append(path.parent)
    _sync_folders(folders)
    return len(folders)


def move_many(moves: Iterable[tuple[Path, Path]]) -> int:
    """Rename files or links within one file system, over what is there, and sync the folders.

    Args:
        moves: (from, to); what is no longer at ``from`` was moved before.

    Returns:
        How many there were.
    """
    folders: list[Path] = []
    for old, new in moves:
        make_folder(new.parent)
        with _naming(new), contextlib.suppress(FileNotFoundError):
            _local.rename(old, new)
            folders += [old.parent, new.parent]
    _sync_folders(folders)
    return len(folders) // 2


def remove_tree(folder: Path) -> None:
    """Remove a folder that may already be gone, with all that is in it, and sync the one above it."""
    with _naming(folder), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
        sync_folder(folder.parent)


def remove_temporaries(folder: Path, *, below: bool) -> int:
    """Remove what killed processes left in a folder, and in the folders below it if asked.

    Only for the one process that holds the output's lock, before others write there.

    Returns:
        How many there were.
    """
    return remove_many(find_temporaries(folder, below=below))


def find_temporaries(folder: Path, *, below: bool) -> list[Path]:
    """What `remove_temporaries` would remove."""
    found = (folder.rglob if below else folder.glob)(".latentkit-*.tmp")
    return [path for path in found if _TEMPORARY.fullmatch(path.name)]


def _temporary(path: Path) -> Path:
    return path.with_name(f".latentkit-{os.getpid()}-{next(_serial)}.tmp")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an OSError into one line that names the path and says what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        cause = error.strerror or str(error)
        raise LatentkitError(f"cannot write {path}: {cause}" + (f": {advice}" if advice else "")) from error
