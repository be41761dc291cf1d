"""Captions: in a text file beside the picture, or in the records of the photo library."""

import functools
import hashlib
import logging
from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import Any

from latentkit.sources import files
from latentkit.sources.source import SourceError

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
    return {
        "from": place,
        "sha256": hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()[:12],
    }


def is_copy(record: dict[str, Any]) -> bool:
    """Whether a record's caption repeats another place's, as its ``caption_source`` says, and is unedited."""
    said, caption = record.get("caption_source"), record.get("caption")
    return (
        isinstance(said, dict)
        and isinstance(caption, str)
        and said == caption_source(said.get("from", ""), caption)
    )


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
