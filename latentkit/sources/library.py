"""The photo library as a place: which links have a photo, which lead to nothing, which raw file is whose."""

import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from latentkit.sources import files


@dataclass(frozen=True)
class Survey:
    """Which pictures a collection has, and what of the collection itself is to go.

    Attributes:
        keys: of every picture that is there and stays.
        links: names in the library's `root` that are to go.
        raw: names in the library's `raw` that are to go.
        there: ``links`` and ``raw`` -> how many there are now.
    """

    keys: Set[str]
    links: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    there: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Library:
    """The folders of a photo library; see `ApprovedSource`. None of them need hold anything.

    Attributes:
        root: the folder of links.
        raw: the folder that they may lead to.
        home: the folder that is locked for both, where the photo ledger lies.
    """

    root: Path
    raw: Path
    home: Path

    def require(self) -> Path:
        """The folder of links. Raises UsageError when there is none."""
        return files.existing_folder(self.root, "sync the photo library first, or set dataset.root")

    def survey(self, withdrawn: Set[str] = frozenset()) -> Survey:
        """Look at every entry of `root` that is named as a picture; changes nothing.

        A link goes when it leads into `raw` or `root` and nothing is there, or when it leads into `raw` and
        its key is withdrawn. A link that leads anywhere else is not followed and stays, and so does its
        target; what is no link stays. A raw file goes with the last link that leads to it, when that is
        withdrawn and the file is a regular one.

        Args:
            withdrawn: keys that are no longer approved, by a complete listing.

        Raises:
            UsageError: there is no such folder.
        """
        root = self.require()
        names = sorted(filter(files.is_picture_name, os.listdir(root)))  # noqa: PTH208 - names, no paths
        leads, keys, links = LinkTargets(root, self.raw), set[str](), list[str]()
        raw, kept = set[str](), set[str]()
        for name in names:
            key, target = files.key_of(name), leads(name)
            photo = target.photo if target else None
            going = photo is not None and key in withdrawn
            if going or (target and target.path and not target.path.exists()):
                links.append(name)
            else:
                keys.add(key)
            if photo is not None:
                (raw if going else kept).add(photo)
        paths = {name: self.raw / name for name in raw - kept}
        unused = sorted(name for name, path in paths.items() if path.is_file() and not path.is_symlink())
        there = {"links": len(names), "raw": sum(1 for _ in self.raw.iterdir()) if unused else 0}
        return Survey(keys, links, unused, there)


class Target(NamedTuple):
    """What a link leads to.

    Attributes:
        text: the link's own.
        path: in the folder of photos or of links, where nothing need be; None when it leads anywhere else.
        photo: its name, when it is in the folder of photos.
    """

    text: str
    path: Path | None = None
    photo: str | None = None


class LinkTargets:
    """Entry of the folder of links -> what its link leads to; None for an entry that is no link.

    Args:
        root: the folder of links.
        raw: the folder of photos.
    """

    def __init__(self, root: Path, raw: Path) -> None:
        self._root, self._raw = root, raw
        self._homes = {folder.resolve(): folder for folder in (root, raw)}
        self._parents: dict[Path, Path | None] = {}

    def __call__(self, name: str) -> Target | None:
        try:
            text = os.readlink(self._root / name)  # noqa: PTH115 - the text itself
        except OSError:
            return None
        target = self._root / text
        if target.parent not in self._parents:
            self._parents[target.parent] = self._homes.get(target.parent.resolve())
        home = self._parents[target.parent]
        if home is None or target.name in {"", ".."}:
            return Target(text)
        return Target(text, home / target.name, target.name if home == self._raw else None)
