"""Stage 1 records, which held the DINOv3 embedding themselves, and what they become.

A Stage 1 line is ``{"image_path", "dinov3_embedding": [1024 numbers], "caption", "t5_attention_mask"}`` and,
later, ``width`` and ``height``. In Stage 2 the embedding is a `.npy`; the record keeps the JSON text of every
other field, to the character, and gains ``image_id``, ``format_version`` and, where they are known,
``aspect_bucket`` and ``encoders``. What made those numbers was written down nowhere; the contracts here say
so.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from latentkit.encoders.contract import UNRECORDED, Contract
from latentkit.pixels.geometry import BucketCrop
from latentkit.sources.files import printable
from latentkit.stores.records import FIELDS, FORMAT_VERSION, INLINE

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


class Fields(NamedTuple):
    """A line's fields in its order: their values, and their JSON texts as they stand in the line."""

    values: dict[str, Any]
    texts: dict[str, str]


def parse_line(raw: bytes) -> Fields:
    """The fields of a line.

    Raises:
        ValueError: it is no JSON object.
    """
    line = raw.decode("utf-8-sig", "surrogatepass")
    fields = Fields({}, {})
    at = _pass(_OPEN, line, 0)
    while not _CLOSE.match(line, at):
        if fields.values:
            at = _pass(_COMMA, line, at)
        name, at = _decode(line, at)
        if not isinstance(name, str):
            raise ValueError("a name is no text")
        at = _pass(_COLON, line, at)
        fields.values[name], end = _decode(line, at)
        fields.texts[name] = line[at:end]
        at = end
    return fields


def _pass(pattern: re.Pattern[str], line: str, at: int) -> int:
    if found := pattern.match(line, at):
        return found.end()
    raise ValueError("not a JSON object")


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


def array_facts(encoder: str, record: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """What the ledger says of an array, from its record.

    Args:
        encoder: of `CONTRACTS`.
        record: the values of its fields.
        shape: the array's.

    Raises:
        ValueError: the record and the array do not belong together.
    """
    if encoder == "t5":
        mask = record.get("t5_attention_mask")
        seen = mask.count(1) if isinstance(mask, list) else 0
        if mask != [1] * seen + [0] * (TOKENS - seen):
            raise ValueError(f"its record has no t5_attention_mask of {TOKENS} ones and zeros")
        return {"attention_mask_length": seen, "max_length": TOKENS, "cut": False}
    size = _size(record)
    known: dict[str, Any] = {"width": size[0], "height": size[1]} if size else {}
    if encoder == "flux_vae":
        known["aspect_bucket"] = f"{8 * shape[2]}x{8 * shape[1]}"
        if (bucket := aspect_bucket(record)) not in (None, known["aspect_bucket"]):
            raise ValueError(f"it is a latent of {known['aspect_bucket']}, its record says {bucket}")
    return known


def _size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) in pixels; None when the record does not know them."""
    width, height = record.get("width"), record.get("height")
    return (width, height) if type(width) is type(height) is int and min(width, height) > 0 else None


def aspect_bucket(record: Mapping[str, Any]) -> str | None:
    """The record's ``aspect_bucket``, else (also for null) the one for its size; None when it has neither."""
    if (bucket := record.get("aspect_bucket")) is not None:
        return str(bucket)
    size = _size(record)
    return BucketCrop().bucket_of(*size) if size else None


def stage2_line(key: str, fields: Fields, encoders: Sequence[str]) -> bytes:
    """The Stage 2 record of a line, without its embedding and without a newline.

    Args:
        key: its image id.
        fields: of `parse_line`.
        encoders: whose outputs are there; empty leaves the field as it is.
    """
    texts = {name: text for name, text in fields.texts.items() if name != INLINE}
    texts |= {"image_id": json.dumps(key), "format_version": str(FORMAT_VERSION)}
    if texts.get("aspect_bucket", "null") == "null" and (bucket := aspect_bucket(fields.values)):
        texts["aspect_bucket"] = json.dumps(bucket)
    if encoders:
        texts["encoders"] = json.dumps(encoders)
    order = [name for name in (*FIELDS, "encoders") if name in texts]
    line = ", ".join(f"{json.dumps(name)}: {texts[name]}" for name in dict.fromkeys([*order, *texts]))
    return f"{{{line}}}".encode("utf-8", "surrogatepass")
