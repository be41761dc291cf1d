"""What a record may say: the types of its fields, and what the ledgers know of its picture."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from latentkit.stores.records import BUCKET, FORMAT_VERSION, INLINE, MASK, mask_of

_TOKENS = ("attention_mask_length", "max_length")


class Listed(NamedTuple):
    """What a done ledger says of one output.

    Attributes:
        sha256: of what it was made from; empty where nobody recorded it.
        bytes: of its files.
        facts: of its input: size and aspect bucket of the picture, tokens of the caption.
    """

    sha256: bytes
    bytes: int
    facts: Mapping[str, Any]


def parse_listed(line: Mapping[str, Any]) -> tuple[str, Listed]:
    """Key and entry of a ledger's line; facts of another type than theirs are as if they were absent.

    Raises:
        KeyError, TypeError, ValueError: it is no such line.
    """
    key, size, facts = line["key"], line["bytes"], line["facts"]
    if not isinstance(key, str) or not isinstance(size, int) or not isinstance(facts, dict):
        raise TypeError("wrong fields")
    known = {name: facts[name] for name in ("width", "height", *_TOKENS) if type(facts.get(name)) is int}
    if _is_bucket(bucket := facts.get("aspect_bucket")):
        known["aspect_bucket"] = bucket
    return key, Listed(bytes.fromhex(line["sha256"]), size, known)


def check_record(
    record: Mapping[str, Any], listed: Mapping[str, Listed], copies: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with a record.

    Args:
        record: has an ``image_id``, or an ``image_path`` with a stem.
        listed: encoder -> what its ledger says of this picture.
        copies: field of a record -> the encoder whose fact it is.

    Yields:
        Kind and detail, as in `latentkit.upkeep.verification.KINDS`: ``stage1``, ``record``, ``unencoded``,
        ``mask``, ``claim``. A null size or bucket that no ledger knows is one that is not known yet.
    """
    if INLINE in record:
        yield "stage1", "its embedding is inline"
    encoders = record.get("encoders", [])
    encoders = [name for name in encoders if isinstance(name, str)] if isinstance(encoders, list) else []
    yield from (("claim", f"lists {name}") for name in encoders if name not in listed)
    mended = bool(listed or record.get("encoders"))  # by publishing the records anew
    expected = _expected(listed, encoders, copies)
    for name, (fits, meaning) in _FIELDS.items():
        value = record.get(name)
        unknown = name not in record or (value is None and (name in _FACTS or (name == MASK and not mended)))
        if name in expected and not (fits(value) and value == expected[name]):
            detail = f"{name} is {_short(value)}, the ledger says {_short(expected[name])}"
        elif name not in expected and not unknown and not fits(value):
            detail = f"{name} is {_short(value)}, not {meaning}"
        else:
            continue
        yield ("mask" if name == MASK else "record") if mended else "unencoded", detail


def _expected(listed: Mapping[str, Listed], encoders: list[str], copies: Mapping[str, str]) -> dict[str, Any]:
    """The fields that the ledgers decide."""
    facts = {name: entry.facts for name, entry in sorted(listed.items())}
    expected = {name: fact[name] for fact in facts.values() for name in ("width", "height") if name in fact}
    for name, encoder in copies.items():
        fact = dict(facts.get(encoder, {}))
        if encoder in encoders and fact.keys() >= set(_TOKENS):
            fact[MASK] = mask_of(fact)
        if name in fact:
            expected[name] = fact[name]
    return expected


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_bucket(value: Any) -> bool:
    return isinstance(value, str) and BUCKET.fullmatch(value) is not None


def _is_mask(value: Any) -> bool:
    bits = isinstance(value, list) and all(type(bit) is int and bit in (0, 1) for bit in value)
    return bits and sorted(value, reverse=True) == value


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image_path": (_is_text, "a path"),
    "image_id": (_is_text, "a text"),
    "caption": (lambda value: value is None or isinstance(value, str), "a text"),
    "width": (_is_size, "a number of pixels"),
    "height": (_is_size, "a number of pixels"),
    "aspect_bucket": (_is_bucket, "WxH"),
    MASK: (_is_mask, "a list of ones, then zeros"),
    "format_version": (lambda value: value == FORMAT_VERSION, str(FORMAT_VERSION)),
    "label": (lambda value: type(value) is int and value >= 0, "a class"),
    "encoders": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names"),
}

_FACTS = ("width", "height", "aspect_bucket")
"""Fields that are null as long as no ledger knows them."""


def _short(value: Any) -> str:
    if _is_mask(value):
        return f"{sum(value)} of {len(value)} tokens"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
