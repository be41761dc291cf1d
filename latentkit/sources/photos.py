"""The photo ledger: what the crawler's list said of each photo, and what came of it.

One JSON object a line, sorted by ``filename``, published by ``latentkit.sync``::

    {"filename": "abc123", "url": "https://...", "listed": true, "type": "jpg",
     "sha256": "...", "size": 183402, "mtime_ns": 1763800000000000000, "metadata": {"title": "..."}}

``url`` is the list's ``exportable_url``, null when there was none; ``type`` the suffix of the link, by the
file's first bytes; ``sha256``, ``size`` and ``mtime_ns`` are those of the raw file when it last decoded
whole; these three and ``type`` are null for a photo that is not there. ``listed`` is false once a complete
list no longer has it. ``metadata`` holds every field of the list's entry but ``filename`` and
``exportable_url``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentkit.sources.files import json_lines

CAPTION_FIELDS = ("caption", "description")
"""Fields of the list's entries that are captions, the first that is set counts."""


def read_photos(path: Path) -> Iterator[dict[str, Any]]:
    """The ledger's entries, line by line; an absent file has none, and lines that are none are left out."""
    for entry in json_lines(path):
        match entry:
            case {"filename": str(), "metadata": dict()}:
                yield entry


def listed_caption(metadata: dict[str, Any]) -> str | None:
    """The caption that the list gave, stripped; None when there is none."""
    texts = (metadata.get(name) for name in CAPTION_FIELDS)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)
