"""Any folder of pictures, with captions in text files beside them and classes in top-level folders."""

import os
from dataclasses import dataclass
from pathlib import Path

from latentkit.errors import UsageError
from latentkit.sources import files
from latentkit.sources.captions import read_caption
from latentkit.sources.source import Item


@dataclass(kw_only=True, eq=False)
class FolderSource(files.FileSource):
    """The pictures of a folder and all folders in it, in the order of their keys (by code point).

    Taken are ``.jpg .jpeg .png .webp .gif`` in any case. What begins with a dot is skipped, links to folders
    are counted as ignored, links to files are followed. A key is the path in the folder without its suffix,
    such as ``cats/tom``; two keys must differ by more than case and Unicode form.

    The caption of ``tom.jpg`` is ``tom.txt``: UTF-8, stripped. An empty one is none; one that is not UTF-8 or
    cannot be read is none too, and a warning in the log names it.

    When every picture lies in a folder of the folder, those folders, sorted, are the classes.

    Attributes:
        root: the folder.
        orient: apply EXIF orientation.
        strict: refuse a JPEG that libjpeg had to guess at.
        exclude: a folder that is left out wherever it lies: the output.

    Raises:
        UsageError: no folder, no picture in it, or two pictures with one key.
    """

    root: str
    orient: bool = True
    strict: bool = True
    exclude: str | None = None

    def __post_init__(self) -> None:
        if not self.root:
            raise UsageError("dataset.root is empty: set dataset.root to a folder of pictures")
        self._folder = files.existing_folder(self.root, "set dataset.root to a folder of pictures")
        exclude = Path(self.exclude).resolve() if self.exclude else None
        if exclude == self._folder.resolve():
            raise UsageError(f"{self.exclude} is the collection itself: choose another output_dir")
        paths, self.ignored = _walk(self._folder, exclude)
        if not paths:
            found = f"{self.ignored} other files" if self.ignored else "nothing else either"
            suffixes = " ".join(sorted(files.PICTURE_SUFFIXES))
            raise UsageError(f"{files.printable(self.root)}: no picture in it ({suffixes}), {found}")
        self._keys, self._paths = files.sort_by_key(paths, self._location)
        tops = {key.split("/", 1)[0] for key in self._keys if "/" in key}
        self.classes = tuple(sorted(tops)) if all("/" in key for key in self._keys) else ()
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def _location(self, path: str) -> str:
        return files.printable(Path(self.root, path))

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> list[str]:
        return self._keys

    def __getitem__(self, index: int) -> Item:
        key, path = self._keys[index], self._paths[index]
        label = self._labels[key.split("/", 1)[0]] if self.classes else None
        caption = read_caption(self._folder / f"{path.rpartition('.')[0]}.txt", follow=True)
        return Item(key, self._location(path), caption, label)

    def _path(self, index: int) -> str:
        return f"{self._folder}/{self._paths[index]}"


def _walk(root: Path, exclude: Path | None) -> tuple[list[str], int]:
    """Relative paths of the pictures under a folder, and how many other files (captions apart) lie there."""
    paths: list[str] = []
    ignored = 0
    for name, folders, names in os.walk(root, onerror=_refuse):
        folder = Path(name)
        visible = [inside for inside in folders if not inside.startswith(".")]
        folders[:] = [inside for inside in visible if not (folder / inside).is_symlink()]
        ignored += len(visible) - len(folders)
        if exclude is not None and exclude.name in folders and (folder / exclude.name).resolve() == exclude:
            folders.remove(exclude.name)
        prefix = "" if folder == root else f"{folder.relative_to(root)}/"
        for name in names:
            if files.is_picture_name(name):
                paths.append(prefix + name)
            elif not name.endswith(".txt") and not name.startswith("."):
                ignored += 1
    return paths, ignored


def _refuse(error: OSError) -> None:
    raise UsageError(f"{files.printable(error.filename)} may not be read: {error.strerror}")
