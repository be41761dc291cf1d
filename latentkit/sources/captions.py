"""Captions: in a text file beside the image, in the records of the photo library, or written by a model.

A model writes captions for images that have none of their own, into ``<output_dir>/captions.jsonl``: one JSON
object a line, sorted by key once a run has ended::

    {"key": "abc123", "caption": "A red fox ...", "model": "gemma3:27b", "prompt_sha256": "...",
     "sha256": "...", "size": 183402, "mtime_ns": 1763800000000000000, "time": "2025-11-22T10:00:00Z"}

``sha256`` (hex), ``size`` and ``mtime_ns`` are of the image that the model saw; the last two are null where
a source has nothing to stat. Of several lines of a key the last counts; those before it are what it replaced.
"""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from latentkit.sources import files
from latentkit.sources.source import Fingerprint, Item, SourceError, Stat, Wrapper

MAX_BYTES = 2**20
"""A larger text file is no caption."""

TEXT_FILE, RECORD, LIST, MODEL = "text file", "record", "list", "model"
"""Where a caption may be from."""

logger = logging.getLogger(__name__)


def read_caption(path: Path, *, follow: bool) -> str | None:
    """The caption in a text file: UTF-8 with or without a byte order mark, stripped; None when empty.

    A file that is absent is None. One that is not UTF-8, too large or not readable is None too, and a
    warning in the log names it.

    Args:
        path: the text file.
        follow: whether it may be a symbolic link.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        with files.opened_file(path, follow=follow) as descriptor:
            data, _ = files.read_whole(descriptor, path, MAX_BYTES)
        return data.decode("utf-8-sig").strip() or None
    except SourceError as error:
        _warn(str(error))
    except UnicodeDecodeError:
        _warn(f"{files.printable(path)} is not UTF-8")
    return None


@functools.cache
def _warn(reason: str) -> None:
    """Once for each reason, though captions are read at every planning and batch."""
    logger.warning("caption left out: %s", reason)


def caption_source(place: str, caption: str) -> dict[str, str]:
    """The field ``caption_source`` of a record that repeats a caption from another place."""
    digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()
    return {"from": place, "sha256": digest[:12]}


def is_copy(record: dict[str, Any]) -> bool:
    """Whether a record's caption repeats another place's, as its ``caption_source`` says, and is unedited."""
    match record:
        case {"caption_source": {"from": place} as said, "caption": str(caption)}:
            return bool(said == caption_source(place, caption))
    return False


def read_records(path: Path, keys: Container[str]) -> tuple[dict[str, str | None], int]:
    """Captions of some pictures from a file of records, line by line; of several the last counts.

    Args:
        path: JSON lines with ``image_id`` (or ``image_path``, whose stem it is) and ``caption``; an absent
            file has no records.
        keys: the image ids that are wanted.

    Returns:
        image id -> caption, None for one that was emptied or is a copy (`is_copy`); and how many lines
        are no such record.
    """
    captions: dict[str, str | None] = {}
    bad = 0
    for record in files.json_lines(path):
        match record:
            case {"image_id": str(key)}:
                pass
            case {"image_path": str(location)} if "image_id" not in record:
                key = PurePosixPath(location).stem
            case _:
                bad += 1
                continue
        if not isinstance(caption := record.get("caption"), str | None):
            bad += 1
        elif "caption" in record and key in keys:
            captions[key] = None if is_copy(record) else (caption or "").strip() or None
    return captions, bad


class Written(NamedTuple):
    """A caption, who wrote it (`model`, and the sha256 of the prompt in hex), and of which bytes."""

    caption: str
    model: str
    prompt_sha256: str
    picture: Fingerprint


class Captions:
    """The captions of one file, by key; in memory are the last of each key and what it replaced.

    Args:
        path: ``captions.jsonl``; need not exist. Lines that are no captions are left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: dict[str, Written] = {}
        self._replaced: dict[str, set[str]] = {}
        for line in files.json_lines(path):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self.add(*parse_caption(line))

    def __len__(self) -> int:
        return len(self._last)

    def get(self, key: str) -> Written | None:
        """What counts for a key; None when no model wrote a caption for it."""
        return self._last.get(key)

    def add(self, key: str, written: Written) -> None:
        """Take in one more; it counts from now on."""
        if (before := self._last.get(key)) is not None and before.caption != written.caption:
            self._replaced.setdefault(key, set()).add(before.caption)
        self._last[key] = written

    def own(self, key: str, caption: str | None) -> str | None:
        """The caption, when it is the picture's own.

        None when there is none, and for one that a model wrote, now or before: records repeat the captions
        that were encoded, and the photo library reads its captions from the records.
        """
        last = self._last.get(key)
        if last is None or caption is None:
            return caption
        return None if caption == last.caption or caption in self._replaced.get(key, ()) else caption


@dataclass(eq=False)
class Captioned(Wrapper):
    """A source whose pictures have the captions that a model wrote where they have none of their own.

    A picture whose bytes have changed keeps the caption until it is captioned again; captioning notices
    the change, encoding does not read the picture for it.

    Attributes:
        source: the pictures, and their own captions, which always win.
        path: of the captions; need not exist.
    """

    path: Path

    @cached_property
    def captions(self) -> Captions:
        """What is there when it is first asked for. Additions to it are seen at once."""
        return Captions(self.path)

    def __getitem__(self, index: int) -> Item:
        item = self.source[index]
        written = self.captions.get(item.key)
        if written is None or self.captions.own(item.key, item.caption) is not None:
            return item
        _, caption = next(self.caption_choices(index))
        return dataclasses.replace(item, caption=caption)

    def caption_choices(self, index: int) -> Iterator[tuple[str, str]]:
        key = self.source[index].key
        for place, caption in self.source.caption_choices(index):
            if place != RECORD or self.captions.own(key, caption) is not None:
                yield place, caption
        if (written := self.captions.get(key)) is not None:
            yield MODEL, written.caption


def parse_caption(line: dict[str, Any]) -> tuple[str, Written]:
    """(key, caption) of a line's object. Raises KeyError, TypeError or ValueError when it is no such line."""
    texts = [line[name] for name in ("key", "caption", "model", "prompt_sha256", "sha256", "time")]
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError("wrong fields")
    key, caption, model, prompt, sha256, _ = texts
    size, mtime_ns = line["size"], line["mtime_ns"]
    stat = None if size is mtime_ns is None else Stat(int(size), int(mtime_ns))
    return key, Written(caption, sys.intern(model), sys.intern(prompt), Fingerprint(sha256, stat))
