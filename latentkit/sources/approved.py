"""The curated photo library: links in data/approved to data/raw; captions beside them or in the records.

What the crawler's list said of each photo, and what came of it, is in the photo ledger, which
``latentkit.sync`` publishes: one JSON object a line, sorted by ``filename``::

    {"filename": "abc123", "url": "https://...", "listed": true, "type": "jpg",
     "sha256": "...", "size": 183402, "mtime_ns": 1763800000000000000, "metadata": {"title": "..."}}

``url`` is the list's ``exportable_url``, null when there was none. ``type`` is the suffix of the link, by the
file's first bytes. ``sha256``, ``size`` and ``mtime_ns`` are of the raw file when it last decoded whole; they
and ``type`` are null for a photo that is not there. ``listed`` is false once a complete list no longer has
it. ``metadata`` holds every field of the list's entry but ``filename`` and ``exportable_url``.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentkit.errors import UsageError
from latentkit.sources import files
from latentkit.sources.captions import LIST, RECORD, TEXT_FILE, read_caption, read_records
from latentkit.sources.library import LinkTargets
from latentkit.sources.source import Item, Source, SourceError, Stat

CAPTION_FIELDS = ("caption", "description")
"""Fields of the list's entries that are captions; the first that is set counts."""


@dataclass(kw_only=True, eq=False)
class ApprovedSource(Source):
    """The approved photos, in the order of their keys (by code point).

    ``<root>/<image_id>.<suffix>`` is a link to ``../raw/<image_id>.<suffix>``, or a file. A link is followed
    for one step, into ``raw`` or ``root`` themselves and nowhere else. The file that it leads to is opened
    without following links, so that a link swapped between the check and the read leads nowhere. Every other
    link is a SourceError when it is read.

    A caption comes from ``<image_id>.txt`` beside the link; else from the records, by ``image_id`` or else
    the stem of ``image_path``; else from the crawler's list (`CAPTION_FIELDS`). Of several records of
    a picture the last that has the field ``caption`` counts. Records repeat what was encoded and
    say where it is from; such a copy does not count, until somebody edits it.

    Attributes:
        root: the folder of links.
        raw: the folder that they may lead to.
        records: JSON lines; need not exist.
        photos: the photo ledger; need not exist.
        orient: apply EXIF orientation.
        strict: refuse a JPEG that libjpeg had to guess at.

    Records and photo ledger are read when they are first asked for, so that a source can be built before
    their folder is locked.

    Raises:
        UsageError: no folder, no picture in it, or two pictures with one key.
    """

    root: str = "data/approved"
    raw: str = "data/raw"
    records: str = "data/derived/approved_image_dataset.jsonl"
    photos: str = "data/photos.jsonl"
    orient: bool = True
    strict: bool = True

    def __post_init__(self) -> None:
        self.classes = ()
        self._folder = files.existing_folder(self.root, "sync the photo library first, or set dataset.root")
        self._links = LinkTargets(self._folder, Path(self.raw).expanduser())
        names = [name for name in os.listdir(self._folder) if not name.startswith(".")]  # noqa: PTH208 - no paths
        pictures = list(filter(files.is_picture_name, names))
        if not pictures:
            raise UsageError(f"{files.printable(self.root)}: no picture in it; sync the photo library first")
        self._texts = {name for name in names if name.endswith(".txt")}
        self.ignored = len(names) - len(pictures) - len(self._texts)
        self._keys, self._names = files.sort_by_key(pictures, self._location)

    @cached_property
    def _listed(self) -> dict[str, str]:
        """Key -> the list's metadata, as text, which takes less memory."""
        keys, listed = set(self._keys), dict[str, str]()
        for photo in files.json_lines(Path(self.photos).expanduser()):
            match photo:
                case {"filename": str(key), "metadata": dict(metadata)} if key in keys:
                    listed[key] = json.dumps(metadata)
        return listed

    @cached_property
    def _recorded(self) -> tuple[dict[str, str | None], int]:
        return read_records(Path(self.records).expanduser(), set(self._keys))

    @property
    def bad_records(self) -> int:
        """Lines of the records that are no JSON object with an id."""
        return self._recorded[1]

    def _location(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{files.printable(name)}"

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Item:
        key, name = self._keys[index], self._names[index]
        _, caption = next(self.caption_choices(index), ("", None))
        return Item(key, self._location(name), caption)

    def caption_choices(self, index: int) -> Iterator[tuple[str, str]]:
        key, text = self._keys[index], f"{self._names[index].rpartition('.')[0]}.txt"
        if text in self._texts and (beside := read_caption(self._folder / text, follow=False)):
            yield TEXT_FILE, beside
        if recorded := self._recorded[0].get(key):
            yield RECORD, recorded
        listed = json.loads(self._listed.get(key, "{}"))
        for text in map(listed.get, CAPTION_FIELDS):
            if isinstance(text, str) and text.strip():
                yield LIST, text.strip()
                return

    def metadata(self, index: int) -> dict[str, Any]:
        """``{"metadata": {...}}`` with what the crawler's list said."""
        listed = json.loads(self._listed.get(self._keys[index], "{}"))
        return {"metadata": listed} if listed else {}

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        name = self._names[index]
        with files.opened_file(self._file(name), follow=False) as descriptor:
            return files.read_whole(descriptor, self._location(name))

    def stat(self, index: int) -> Stat | None:
        try:
            with files.opened_file(self._file(self._names[index]), follow=False) as descriptor:
                return files.stat_of(descriptor)
        except SourceError:
            return None

    def _file(self, name: str) -> Path:
        """The photo's own file, which an entry of the root stands for.

        Raises:
            SourceError: its link leads out, or to nothing.
        """
        target = self._links(name)
        if target is None:
            return self._folder / name
        place, where = self._location(name), files.printable(target.text)
        if target.path is None:
            raise SourceError(f"{place}: links to {where}, outside of {self.raw}: not followed")
        if not target.path.exists():
            raise SourceError(f"{place}: its target {where} is gone")
        return target.path
