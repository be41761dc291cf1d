"""The pictures of a folder of .npy outputs that are complete: what tars are made of and trainers read.

A record is complete when its ``encoders`` names every encoder that is asked for, their files are there with
the size that the ledger says, and, where one of them encodes captions (its contract stores ``hidden``), it
has a caption and that encoder's ledger has its mask. Outputs without a caption encoder need no caption. Nor
may one be stale: hidden states are of the caption that the record has, and all other outputs of one picture's
bytes, as far as the ledgers know what they were made from.

A sample's arrays have names, its fields: ``<encoder>`` is an encoder's first output, ``<encoder>_<output>``
each further one, ``<encoder>_mask`` the attention mask of a caption encoder.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.stores.ledger import read_facts
from latentkit.stores.npy import IN_RECORD, NpyOutput, whole_pictures
from latentkit.stores.records import BUCKET, image_id, stale_outputs

UNBUCKETED = "none"
"""The bucket of pictures that no encoder crops to buckets."""


class Sample(NamedTuple):
    """A complete record, compact, for many.

    Attributes:
        key: the image id.
        offset: of its line in the records file.
        line: the first 8 bytes of the sha256 of its line.
        bucket: ``WxH``, joined by ``+`` where encoders have different ones; or `UNBUCKETED`.
        size: width and height of the picture in pixels; zeros where no encoder looked at it.
        seen: caption encoder -> tokens that it saw.
        inputs: sha256 of its line, and of what each encoder's output was made from.
        bytes: of its files and its line.
    """

    key: str
    offset: int
    line: bytes
    bucket: str
    size: tuple[int, int]
    seen: tuple[tuple[str, int], ...]
    inputs: bytes
    bytes: int


@dataclass(frozen=True)
class Samples:
    """The complete records, sorted by key, and how many records lack what (one may lack several things)."""

    complete: list[Sample]
    incomplete: int
    lacking: dict[str, int]


def declared_fields(contracts: Mapping[str, Contract]) -> dict[str, Mapping[str, Any]]:
    """Field name -> ``{"shape": [...], "dtype": ...}``, encoder by encoder, in the order of the outputs."""
    declared: dict[str, Mapping[str, Any]] = {}
    for encoder, contract in contracts.items():
        first, *further = [name for name in contract.outputs if name != IN_RECORD]
        declared[encoder] = contract.outputs[first]
        declared |= {f"{encoder}_{name}": contract.outputs[name] for name in further}
        if tokens := _tokens(contract):
            declared[f"{encoder}_mask"] = {"shape": [tokens], "dtype": "uint8"}
    return declared


def _tokens(contract: Contract) -> int:
    """Of a caption encoder: how many hidden states it stores, [tokens, D], with a mask. Of others: 0."""
    return int(next(iter(contract.outputs.values()))["shape"][0]) if contract.stored == "hidden" else 0


def find_samples(outputs: Mapping[str, NpyOutput], records: Path) -> Samples:
    """Look at every record and the size of every file; no array is read.

    Of several records of one picture the last counts. In memory are keys and numbers, never the records.

    Args:
        outputs: encoder -> its outputs, of those that a picture must have.
        records: their records file.

    Raises:
        UsageError: there are no records.
        LatentkitError: no record is complete: what they lack, and what to do.
    """
    ledgers = _Ledgers(outputs)
    found: dict[str, Sample | list[str]] = {}
    unreadable = offset = 0
    try:
        file = records.open("rb")
    except FileNotFoundError:
        raise UsageError(f"{records} does not exist: encode first") from None
    with file:
        for raw in file:
            try:
                record = json.loads(raw)
                key = image_id(record)
                found[key] = ledgers.sample(key, record, raw, offset)
            except (KeyError, TypeError, ValueError, RecursionError):
                unreadable += 1
            offset += len(raw)
    lacking = Counter(name for entry in found.values() if isinstance(entry, list) for name in entry)
    if unreadable:
        lacking["readable record"] = unreadable
    complete = sorted(entry for entry in found.values() if isinstance(entry, Sample))
    if not complete:
        words = ", ".join(f"{count:,} lack {name}" for name, count in sorted(lacking.items()))
        raise LatentkitError(f"{records.parent} has no complete record ({words}): encode first")
    return Samples(complete, len(found) - len(complete) + unreadable, dict(sorted(lacking.items())))


def read_sample(
    file: BinaryIO, sample: Sample, outputs: Mapping[str, NpyOutput]
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
    seen = dict(sample.seen)
    arrays: list[np.ndarray] = []
    for encoder, output in outputs.items():
        arrays += output.read(sample.key).values()
        if tokens := _tokens(output.contract):
            arrays.append((np.arange(tokens) < seen[encoder]).astype(np.uint8))
    names = declared_fields({name: output.contract for name, output in outputs.items()})
    return line, record, dict(zip(names, arrays, strict=True))


class _Input(NamedTuple):
    """What a ledger says of an encoder's input: its bucket; the tokens that were seen, of how many."""

    bucket: str | None = None
    seen: int | None = None
    length: int | None = None


class _Ledgers:
    """What the ledgers say of the pictures' outputs, by encoder and key."""

    def __init__(self, outputs: Mapping[str, NpyOutput]) -> None:
        self._done = {
            name: whole_pictures(output.root, name, output.folders.values())
            for name, output in outputs.items()
        }
        self._inputs = {name: _inputs(output) for name, output in outputs.items()}
        tokens = {name: _tokens(output.contract) for name, output in outputs.items()}
        self._tokens = {name: count for name, count in tokens.items() if count}

    def sample(self, key: str, record: Mapping[str, Any], raw: bytes, offset: int) -> Sample | list[str]:
        """The sample of a record, or what it lacks. Raises TypeError for a record that is none."""
        done = {name: entries[key] for name, entries in self._done.items() if key in entries}
        inputs = {name: self._inputs[name].get(key, _Input()) for name in done}
        encoders, caption = record.get("encoders", ()), record.get("caption")
        lacking = [name for name in self._done if name not in encoders or name not in done]
        if self._tokens and not (caption and isinstance(caption, str)):
            lacking.append("caption")
        elif stale_outputs(caption, {name: entry.sha256 for name, entry in done.items()}, self._tokens):
            lacking.append("stale")
        if any(inputs.get(name, _Input()).length != tokens for name, tokens in self._tokens.items()):
            lacking.append("mask")
        buckets = dict.fromkeys(known.bucket for known in inputs.values() if known.bucket)
        if not all(map(BUCKET.fullmatch, buckets)):
            lacking.append("aspect_bucket")
        if lacking:
            return lacking
        line = raw.rstrip(b"\r\n")
        digest = hashlib.sha256(line)
        for entry in done.values():
            digest.update(entry.sha256 + entry.bytes.to_bytes(8, "big"))
        size = (int(record.get("width", 0)), int(record.get("height", 0)))
        seen = tuple((name, known.seen) for name, known in inputs.items() if known.seen is not None)
        nbytes = len(raw) + sum(entry.bytes for entry in done.values())
        bucket = "+".join(buckets) or UNBUCKETED
        return Sample(key, offset, _digest(line), bucket, size, seen, digest.digest(), nbytes)


def _inputs(output: NpyOutput) -> dict[str, _Input]:
    names = ("aspect_bucket", "attention_mask_length", "max_length")
    facts = read_facts(output.root, output.contract.encoder, folded=False)
    return {key: _Input(*map(known.get, names)) for key, _, known in facts}


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()[:8]
