"""Stage 1 records, which held the DINOv3 embedding themselves, and what they become.

A Stage 1 line is ``{"image_path", "dinov3_embedding": [1024 numbers], "caption", "t5_attention_mask"}`` and,
later, ``width`` and ``height``. In Stage 2 the embedding is a `.npy`; the record keeps the JSON text of every
other field, to the character, and gains ``image_id``, ``format_version`` and, where they are known,
``aspect_bucket`` and ``encoders``. What made those numbers was written down nowhere; the contracts here say
so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from latentkit.encoders.contract import UNRECORDED, Contract
from latentkit.pixels.geometry import BucketCrop
from latentkit.sources.files import printable
from latentkit.stores.records import FIELDS, FORMAT_VERSION

EMBEDDING = "dinov3_embedding"

CONTRACTS = {
    name: Contract(
        encoder=name,
        model=UNRECORDED,
        revision=None,
        weights=UNRECORDED,
        pretrained=True,
        input={},
        stored=stored,
        outputs={output: {"shape": shape, "dtype": dtype}},
        precision=UNRECORDED,
    )
    for name, stored, output, shape, dtype in (
        ("dinov3", "cls", "embeddings", [1024], "float32"),
        ("flux_vae", "posterior_mean", "latents", [16, "H/8", "W/8"], "float16"),
        ("t5", "hidden", "hidden", [77, 1024], "float16"),
    )
}
"""Encoder -> what is known of the arrays that Stage 1 and the scripts after it left."""

DIMENSIONS = CONTRACTS["dinov3"].outputs["embeddings"]["shape"][0]
TOKENS = CONTRACTS["t5"].outputs["hidden"]["shape"][0]

_LONGEST_NAME = 250  # bytes; 255 is what file systems allow, .npy included
_decode = json.JSONDecoder().raw_decode
_OPEN, _COLON, _CLOSE = re.compile(r"\s*\{\s*"), re.compile(r"\s*:\s*"), re.compile(r"\s*\}\s*\Z")
_COMMA = re.compile(r"\s*,\s*")


class Field(NamedTuple):
    """A field's value, and its JSON text as it stands in the line."""

    value: Any
    text: str


def parse_line(raw: bytes) -> dict[str, Field]:
    """The fields of a line, in its order.

    Raises:
        ValueError: it is no JSON object.
    """
    line = raw.decode("utf-8-sig", "surrogatepass")
    fields: dict[str, Field] = {}
    at = _pass(_OPEN, line, 0)
    while not _CLOSE.match(line, at):
        if fields:
            at = _pass(_COMMA, line, at)
        name, at = _decode(line, at)
        if not isinstance(name, str):
            raise ValueError("a name is no text")
        at = _pass(_COLON, line, at)
        value, end = _decode(line, at)
        fields[name] = Field(value, line[at:end])
        at = end
    return fields


def _pass(pattern: re.Pattern[str], line: str, at: int) -> int:
    if found := pattern.match(line, at):
        return found.end()
    raise ValueError("not a JSON object")


def inline_embedding(fields: Mapping[str, Field]) -> Any:
    """The value of a record's inline embedding; None when it has none."""
    return fields[EMBEDDING].value if EMBEDDING in fields else None


def parse_embedding(value: Any) -> np.ndarray:
    """float32 [1024] of an inline embedding. Raises ValueError: why it is none."""
    if not isinstance(value, list):
        raise ValueError("the embedding is no list")
    if len(value) != DIMENSIONS:
        raise ValueError(f"the embedding has {len(value):,} numbers, not {DIMENSIONS:,}")
    if not set(map(type, value)) <= {int, float}:
        raise ValueError("the embedding holds what is no number")
    try:
        with np.errstate(over="ignore"):
            array = np.array(value, np.float64).astype(np.float32)
    except OverflowError:
        array = np.full(DIMENSIONS, np.inf, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("the embedding is not finite in float32")
    return array


def refuse_unsafe(key: str) -> None:
    """Raise ValueError unless a file can be named by an image id, under the folder that is meant."""
    try:
        long = any(len(os.fsencode(part)) > _LONGEST_NAME for part in key.split("/"))
        safe = not long and printable(key) == key and not {"", ".", ".."}.intersection(key.split("/"))
    except UnicodeEncodeError:
        safe = False
    if not safe:
        raise ValueError("its image id cannot be a file's name")


def array_facts(encoder: str, fields: Mapping[str, Field], shape: Sequence[int]) -> dict[str, Any]:
    """What the ledger says of an array, from its record.

    Args:
        encoder: of `CONTRACTS`.
        fields: the record.
        shape: the array's.

    Raises:
        ValueError: the record and the array do not belong together.
    """
    if encoder == "t5":
        mask = fields["t5_attention_mask"].value if "t5_attention_mask" in fields else None
        seen = mask.count(1) if isinstance(mask, list) else 0
        if mask != [1] * seen + [0] * (TOKENS - seen):
            raise ValueError(f"its record has no t5_attention_mask of {TOKENS} ones and zeros")
        return {"attention_mask_length": seen, "max_length": TOKENS, "cut": False}
    width, height = _size(fields)
    known: dict[str, Any] = {"width": width, "height": height} if width else {}
    if encoder == "flux_vae":
        known["aspect_bucket"] = f"{8 * shape[2]}x{8 * shape[1]}"
        if (bucket := aspect_bucket(fields)) not in (None, known["aspect_bucket"]):
            raise ValueError(f"it is a latent of {known['aspect_bucket']}, its record says {bucket}")
    return known


def _size(fields: Mapping[str, Field]) -> tuple[int, int]:
    """(width, height) in pixels; zeros when the record does not know them."""
    width, height = (fields[name].value if name in fields else 0 for name in ("width", "height"))
    known = type(width) is int and type(height) is int and min(width, height) > 0
    return (width, height) if known else (0, 0)


def aspect_bucket(fields: Mapping[str, Field]) -> str | None:
    """The record's ``aspect_bucket``, else (also for null) the one for its size; None when it has neither."""
    if "aspect_bucket" in fields and fields["aspect_bucket"].value is not None:
        return str(fields["aspect_bucket"].value)
    width, height = _size(fields)
    return BucketCrop().bucket_of(width, height) if width else None


def stage2_line(key: str, fields: Mapping[str, Field], encoders: Sequence[str]) -> bytes:
    """The Stage 2 record of a line, without its embedding and without a newline.

    Args:
        key: its image id.
        fields: of `parse_line`.
        encoders: whose outputs are there; empty leaves the field as it is.
    """
    texts = {name: field.text for name, field in fields.items() if name != EMBEDDING}
    texts |= {"image_id": json.dumps(key), "format_version": str(FORMAT_VERSION)}
    if texts.get("aspect_bucket", "null") == "null" and (bucket := aspect_bucket(fields)):
        texts["aspect_bucket"] = json.dumps(bucket)
    if encoders:
        texts["encoders"] = json.dumps(encoders)
    names = [name for name in (*FIELDS, "encoders") if name in texts]
    names += [name for name in texts if name not in names]
    line = ", ".join(f"{json.dumps(name)}: {texts[name]}" for name in names)
    return f"{{{line}}}".encode("utf-8", "surrogatepass")
