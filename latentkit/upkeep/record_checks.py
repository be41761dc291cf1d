"""What a record may say: the types of its fields, its mask, and what the ledgers know of its picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from latentkit.stores.records import FORMAT_VERSION, MASK

_BUCKET = re.compile(r"[1-9]\d*x[1-9]\d*")


class Listed(NamedTuple):
    """What a done ledger says of one output, compact, for many.

    Attributes:
        sha256: of what it was made from; empty where nobody recorded it.
        bytes: of its files.
        width, height, bucket: of the picture, and its aspect bucket; None where an encoder has no use for it.
        seen, length: tokens that a text encoder saw, and those that it stored; None for a picture's.
    """

    sha256: bytes
    bytes: int
    width: int | None
    height: int | None
    bucket: str | None
    seen: int | None
    length: int | None


def listed_facts(sha256: bytes, size: int, facts: Mapping[str, Any]) -> Listed:
    """From a ledger's line; facts of another type than theirs are as if they were absent."""
    width, height, seen, length = (
        value if type(value) is int else None
        for value in map(facts.get, ("width", "height", "attention_mask_length", "max_length"))
    )
    bucket = facts.get("aspect_bucket")
    known = isinstance(bucket, str) and _BUCKET.fullmatch(bucket)
    return Listed(sha256, size, width, height, bucket if known else None, seen, length)


def check_record(
    record: Mapping[str, Any], listed: Mapping[str, Listed], copies: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with a record.

    Args:
        record: has an ``image_id``, or an ``image_path`` with a stem.
        listed: encoder -> what its ledger says of this picture.
        copies: field of a record -> the encoder whose fact it is; of other fields, any.

    Yields:
        Kind and detail, as in `latentkit.upkeep.findings`: ``stage1``, ``record``, ``unencoded``, ``mask``,
        ``claim``. A null size or bucket that no ledger knows is one that is not known yet.
    """
    if "dinov3_embedding" in record:
        yield "stage1", "its embedding is inline"
    mended = bool(listed or record.get("encoders"))  # by publishing the records anew
    for name, (fits, expected) in _FIELDS.items():
        if name in record and name not in _FACTS and not fits(record[name]):
            yield "record" if mended else "unencoded", f"{name} is {_short(record[name])}, not {expected}"
    for name, attribute in _FACTS.items():
        value = record.get(name)
        sources = [copies[name]] if name in copies else listed
        entries = (listed[encoder] for encoder in sources if encoder in listed)
        known = {fact for entry in entries if (fact := getattr(entry, attribute)) is not None}
        if known and value not in known:
            yield "record", f"{name} is {_short(value)}, the ledger says {min(known)}"
        elif not known and value is not None and not _FIELDS[name][0](value):
            yield "unencoded", f"{name} is {_short(value)}, not {_FIELDS[name][1]}"
    encoders = record.get("encoders", [])
    encoders = [name for name in encoders if isinstance(name, str)] if isinstance(encoders, list) else []
    yield from (("claim", f"lists {name}") for name in encoders if name not in listed)
    text = copies.get(MASK)
    texts = [listed[name] for name in encoders if name == text and name in listed]
    texts = [entry for entry in texts if entry.length is not None]
    if MASK in record and (mended or record[MASK] is not None):
        for detail in _check_mask(record[MASK], texts):
            yield "mask" if mended else "unencoded", f"the attention mask: {detail}"
    elif texts:
        yield "mask", "there is none"


def _check_mask(mask: Any, texts: Iterable[Listed]) -> Iterator[str]:
    if not isinstance(mask, list) or any(type(bit) is not int or bit not in (0, 1) for bit in mask):
        yield "it is no list of 0 and 1"
    elif sorted(mask, reverse=True) != mask:
        yield "it has a 1 behind a 0"
    else:
        for entry in texts:
            if (sum(mask), len(mask)) != (entry.seen, entry.length):
                yield f"{sum(mask)} of {len(mask)} tokens, the ledger says {entry.seen} of {entry.length}"


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image_path": (lambda value: isinstance(value, str) and value != "", "a path"),
    "image_id": (lambda value: isinstance(value, str) and value != "", "a text"),
    "caption": (lambda value: value is None or isinstance(value, str), "a text"),
    "width": (_is_positive, "a number of pixels"),
    "height": (_is_positive, "a number of pixels"),
    "aspect_bucket": (lambda value: isinstance(value, str) and bool(_BUCKET.fullmatch(value)), "WxH"),
    "format_version": (lambda value: value == FORMAT_VERSION, str(FORMAT_VERSION)),
    "label": (lambda value: type(value) is int and value >= 0, "a class"),
    "encoders": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
}


_FACTS = {"width": "width", "height": "height", "aspect_bucket": "bucket"}
"""A record's field -> the fact of `Listed` that decides it."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
