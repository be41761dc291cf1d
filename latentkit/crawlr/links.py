"""The links: ``<root>/<filename>.<type>`` to the raw file, by a relative path."""

import os
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from latentkit.sources import files
from latentkit.sources.files import folded
from latentkit.sources.library import LinkTargets


class ForeignError(Exception):
    """Something that no sync made is where a link or a photo should be; the text is one line."""


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
                    self._names.setdefault(folded(files.key_of(name)), []).append(name)

    def change(self, filename: str, suffix: str) -> Change:
        """What the photo's link needs.

        Raises:
            ForeignError: a file, or a link that leads elsewhere, has its name or would share its key.
        """
        right = self._root / f"{filename}.{suffix}"
        target = str(self._to_raw / filename)
        names = self._names.get(folded(filename), ())
        ours = {self._root / name: self._target(name, filename) for name in names}
        stale = tuple(path for path in ours if path != right)
        kept = "unchanged" if ours.get(right) == target and not stale else "updated"
        return Change(right, target, kept if ours else "created", stale)

    def unlisted(self, listed: Set[str]) -> set[str]:
        """Keys of the links into the folder of photos whose photo is not listed, under neither name.

        Args:
            listed: filenames.
        """
        there = {folded(filename) for filename in listed}
        return {
            files.key_of(name)
            for key, names in self._names.items()
            if key not in there
            for name in names
            if (target := self._leads(name)) and target.photo and folded(target.photo) not in there
        }

    def _target(self, name: str, filename: str) -> str:
        """Where a link leads, when it is one to this photo, wherever the library once lay."""
        path, target = files.printable(self._root / name), self._leads(name)
        if target is None:
            raise ForeignError(f"{path} is not a link: left as it is")
        if PurePosixPath(target.text).parts[-2:] != (self._raw.name, filename):
            raise ForeignError(f"{path} leads to {files.printable(target.text)}: left as it is")
        return target.text
