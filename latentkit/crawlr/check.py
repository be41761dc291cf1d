"""Whether the bytes of a photo are a whole picture, and of which type."""

from __future__ import annotations

from latentkit.pixels import DecodeError, Pillow
from latentkit.runtime.readable import escaped

_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


class Rejected(Exception):  # noqa: N818 - what came of a check, no failure of it
    """Bytes that are no photo; the text is one line, `escaped`, the reason for the quarantine ledger.

    Attributes:
        stage: ``type`` when they are not one of the four formats at all, else ``decode``; ``read`` when they
            cannot be read.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(escaped(reason))
        self.stage = stage


def check(data: bytes) -> str:
    """Decode a photo whole.

    Returns:
        The suffix of its link, by its first bytes: ``jpg``, ``png``, ``webp`` or ``gif``.

    Raises:
        Rejected: it is none of these, or does not decode whole.
    """
    suffix = _suffix(data)
    if suffix is None and any(mark in data[:1024].lower() for mark in _HTML):
        raise Rejected("type", "an HTML page, no picture")
    try:
        Pillow(orient=False, strict=True)(data)
    except DecodeError as error:
        raise Rejected("decode" if suffix else "type", str(error)) from None
    assert suffix is not None, "whatever decodes begins as one of the formats"
    return suffix


def _suffix(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None
