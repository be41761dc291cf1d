"""The pictures of an `NpyStore` that are complete: what tars are made of and trainers read.

A record is complete when its ``encoders`` names every encoder that is asked for, their files are there with
the size that the ledger says, and, where one of them encodes captions (its contract stores ``hidden``), it
has a caption and a mask of that encoder's length. Outputs without a caption encoder need no caption. Nor may
one be stale: hidden states are of the caption that the record has, and all other outputs of one picture's
bytes, as far as the ledgers know what they were made from.

A sample's arrays have names, its fields: ``<encoder>`` is an encoder's first output, ``<encoder>_<output>``
each further one, ``<encoder>_mask`` the attention mask of a caption encoder, which lies in the record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.stores.arrays import read_npy
from latentkit.stores.ledger import Done
from latentkit.stores.npy import IN_RECORD, NpyStore, array_path
from latentkit.stores.records import image_id, stale_outputs

MASK = "t5_attention_mask"
UNBUCKETED = "none"
"""The bucket of records without an ``aspect_bucket``: no encoder crops to buckets."""

_BUCKET = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True, slots=True)
class Field:
    """One array of every sample.

    Attributes:
        encoder: whose.
        folder: where the files lie; None for the mask, which lies in the record.
        declared: ``{"shape": [...], "dtype": ...}``.
    """

    encoder: str
    folder: Path | None
    declared: Mapping[str, Any]


class Sample(NamedTuple):
    """A complete record, compact, for many.

    Attributes:
        key: the image id.
        offset: of its line in the records file.
        line: the first 8 bytes of the sha256 of its line.
        bucket: ``WxH``, or `UNBUCKETED`.
        size: width and height of the picture in pixels; zeros where no encoder looked at it.
        inputs: sha256 of its line, and of what each encoder's output was made from.
        bytes: of its files and its line.
    """

    key: str
    offset: int
    line: bytes
    bucket: str
    size: tuple[int, int]
    inputs: bytes
    bytes: int


@dataclass(frozen=True)
class Samples:
    """The complete records, sorted by key, and how many records lack what (one may lack several things)."""

    complete: list[Sample]
    incomplete: int
    lacking: dict[str, int]


def fields_of(store: NpyStore, contracts: Mapping[str, Contract]) -> dict[str, Field]:
    """Field name -> field, encoder by encoder."""
    fields: dict[str, Field] = {}
    for encoder, contract in contracts.items():
        folders: list[Path | None] = list(store.output_folders(encoder, contract).values())
        folders += [None] * reads_captions(contract)
        declared = declared_fields({encoder: contract})
        for name, folder in zip(declared, folders, strict=True):
            fields[name] = Field(encoder, folder, declared[name])
    return fields


def declared_fields(contracts: Mapping[str, Contract]) -> dict[str, Mapping[str, Any]]:
    """Field name -> ``{"shape": [...], "dtype": ...}``, encoder by encoder, in the order of the outputs."""
    declared: dict[str, Mapping[str, Any]] = {}
    for encoder, contract in contracts.items():
        outputs = [name for name in contract.outputs if name != IN_RECORD]
        for name in outputs:
            declared[encoder if name == outputs[0] else f"{encoder}_{name}"] = contract.outputs[name]
        if reads_captions(contract):
            declared[f"{encoder}_mask"] = {"shape": [_tokens(contract)], "dtype": "uint8"}
    return declared


def reads_captions(contract: Contract) -> bool:
    """Whether the numbers are a caption's hidden states, [tokens, D], which have a mask."""
    return contract.stored == "hidden"


def find_samples(store: NpyStore, contracts: Mapping[str, Contract]) -> Samples:
    """Look at every record and the size of every file; no array is read.

    Of several records of one picture the last counts. In memory are keys and numbers, never the records.

    Raises:
        UsageError: there are no records.
    """
    whole = {encoder: store.whole(encoder, contract) for encoder, contract in contracts.items()}
    found: dict[str, Sample | list[str]] = {}
    unreadable = 0
    path = Path(store.root, store.records)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: encode first") from None
    with file:
        offset = 0
        for raw in file:
            try:
                record = json.loads(raw)
                key = image_id(record)
                found[key] = _lacking(record, key, contracts, whole) or _sample(
                    key, offset, raw, record, [whole[encoder][key] for encoder in contracts]
                )
            except (KeyError, TypeError, ValueError, RecursionError):
                unreadable += 1
            offset += len(raw)
    lacking: Counter[str] = Counter()
    for entry in found.values():
        if isinstance(entry, list):
            lacking.update(entry)
    if unreadable:
        lacking["readable record"] = unreadable
    complete = sorted(entry for entry in found.values() if isinstance(entry, Sample))
    return Samples(complete, len(found) - len(complete) + unreadable, dict(sorted(lacking.items())))


def read_sample(
    file: BinaryIO, sample: Sample, fields: Mapping[str, Field]
) -> tuple[bytes, dict[str, Any], dict[str, np.ndarray]]:
    """A sample's line of the open records file without the newline, the record in it, and its fields.

    Raises:
        LatentkitError: names the file that is missing or damaged; or another line is there by now.
    """
    file.seek(sample.offset)
    line = file.readline().rstrip(b"\r\n")
    if _digest(line) != sample.line:
        raise LatentkitError(f"{file.name}: the records have changed since: open the dataset again")
    record: dict[str, Any] = json.loads(line)
    arrays = {
        name: np.array(record[MASK], np.uint8)
        if field.folder is None
        else read_npy(array_path(field.folder, sample.key), field.declared)
        for name, field in fields.items()
    }
    return line, record, arrays


def _lacking(
    record: Mapping[str, Any],
    key: str,
    contracts: Mapping[str, Contract],
    whole: Mapping[str, Mapping[str, Done]],
) -> list[str]:
    """What a record needs to be complete. Raises KeyError or TypeError for one that is none."""
    encoders = record.get("encoders", ())
    lacking = [name for name in contracts if name not in encoders or key not in whole[name]]
    texts = {name: contract for name, contract in contracts.items() if reads_captions(contract)}
    caption = record.get("caption")
    if texts and not (caption and isinstance(caption, str)):
        lacking.append("caption")
    if any(not _is_mask(record.get(MASK), _tokens(contract)) for contract in texts.values()):
        lacking.append("mask")
    made_from = {name: whole[name][key].sha256 for name in contracts if key in whole[name]}
    if "caption" not in lacking and stale_outputs(caption, made_from, texts):
        lacking.append("stale")
    bucket = record.get("aspect_bucket")
    if bucket is not None and not _BUCKET.fullmatch(bucket):
        lacking.append("aspect_bucket")
    return lacking


def _tokens(contract: Contract) -> int:
    """How many hidden states a caption encoder stores."""
    first = next(iter(contract.outputs.values()))
    tokens: int = first["shape"][0]
    return tokens


def _is_mask(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(bit in (0, 1) for bit in value)


def _sample(key: str, offset: int, raw: bytes, record: Mapping[str, Any], done: list[Done]) -> Sample:
    line = raw.rstrip(b"\r\n")
    inputs = hashlib.sha256(line)
    for entry in done:
        inputs.update(entry.sha256 + entry.bytes.to_bytes(8, "big"))
    size = (int(record.get("width", 0)), int(record.get("height", 0)))
    nbytes = len(raw) + sum(entry.bytes for entry in done)
    bucket = record.get("aspect_bucket") or UNBUCKETED
    return Sample(key, offset, _digest(line), bucket, size, inputs.digest(), nbytes)


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()[:8]
