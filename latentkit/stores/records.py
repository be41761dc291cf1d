"""Records: one JSON object a line for each picture, sorted by ``image_id``, as trainers read them.

Fields, in this order: ``image_path``, ``caption``, ``width``, ``height``, ``t5_attention_mask``,
``image_id``, ``aspect_bucket``, ``format_version`` (2), ``label`` (where the source has classes),
``caption_source`` (where a caption was copied from that is not the record's own, and its hash), ``facts``
(encoder -> what is known of its input: ``attention_mask_length`` and ``max_length``, ``aspect_bucket`` ...),
``encoders`` (whose outputs are there and belong to the picture as it is now), then every other field that
the record had, in its old order, and what else the source knows (``metadata``).

``t5_attention_mask`` and ``aspect_bucket`` are copies of one encoder's facts, for readers of Stage 2; the
store names the encoder. A field whose value is not known yet is left out, and so is ``t5_attention_mask``
where its encoder has not read the caption as it is now: a record is never half of what it says. Stage 1
records (no ``image_id``: the stem of ``image_path``; an inline ``dinov3_embedding``) become these and keep
what is theirs.
"""

import contextlib
import heapq
import io
import itertools
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from latentkit.prediction.plan import caption_fingerprint
from latentkit.sources.captions import LIST, MODEL, RECORD, caption_source, is_copy
from latentkit.sources.source import Item, Source
from latentkit.stores.ledger import Damage, dump, encoders_done, publish_lines, read_facts
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.storage import publish

FORMAT_VERSION = 2

RECORDS = ("approved_image_dataset.jsonl", "records.jsonl")
"""What the records of an output are called."""

FIELDS = (
    *("image_path", "caption", "width", "height", "t5_attention_mask", "image_id"),
    *("aspect_bucket", "format_version", "label", "caption_source", "facts"),
)
"""What stands first in a record, in this order; then ``encoders``, then all else."""

MASK = "t5_attention_mask"

BUCKET = re.compile(r"[1-9]\d*x[1-9]\d*")
"""A record's ``aspect_bucket``, width by height."""

INLINE = "dinov3_embedding"
"""Field of Stage 1 records: an embedding that lies in the record itself."""

_OF_THE_PICTURE = ("width", "height")
"""Facts that are the same for all encoders."""


def publish_records(path: Path, root: Path, source: Source, copies: Mapping[str, str]) -> None:
    """Merge the source's items and all done ledgers of ``root`` into the records, and publish them.

    A record of a picture that is not in the source, or that no encoder ever did, stays as it is; so does a
    caption that the source read from the records, if it was edited since. Bad lines,
    a cut last line, and all but the last record of one id are reported and kept aside in ``<name>.bad``. In
    memory are the keys, never the records.

    Args:
        path: the records file; need not exist.
        root: the output root whose folded ledgers are merged.
        source: gives each picture's location, caption and label.
        copies: field of a record -> the encoder whose fact it is.
    """
    damage = Damage(path)
    items = {source[index].key: index for index in range(len(source))}
    quarantined = Quarantine.read(root).entries
    with path.open("rb") if path.exists() else io.BytesIO() as file:
        old = _offsets(file, damage)
        damage.report(keep_cut=True)

        def lines() -> Iterator[bytes]:
            for key, facts in _facts_by_key(root, sorted({*items, *old})):
                raw = _line_at(file, old[key]) if key in old else None
                fields = json.loads(raw) if raw else {}
                if key in items and (facts or fields.get("encoders")):
                    item, place = _as_edited(source, items[key], fields)
                    encoders = [
                        name
                        for name, fact in facts.items()
                        if key not in quarantined.get(name, {}) and _is_of(item, *fact)
                    ]
                    known = {name: fact for name, (_, fact) in facts.items()}
                    fields |= source.metadata(items[key])
                    yield dump(_record(item, place, fields, known, encoders, copies))
                elif raw is not None:
                    yield raw

        publish_lines(path, lines())


def image_id(record: Mapping[str, Any]) -> str:
    """A record's key. Raises KeyError or TypeError when it has none."""
    key = record["image_id"] if "image_id" in record else PurePosixPath(record["image_path"]).stem
    if not isinstance(key, str) or not key:
        raise TypeError("image_id is not a text")
    return key


def stale_outputs(caption: Any, made_from: Mapping[str, bytes], texts: Container[str]) -> set[str]:
    """The encoders whose outputs of one picture do not belong together, and with its record.

    Args:
        caption: the record's. A caption encoder's output of another caption is stale.
        made_from: encoder -> sha256 of what its output was made from; empty where nobody recorded it, which
            is taken to be right. Where pictures' outputs are of different bytes, all of these are stale:
            which one is of the picture as it is now, only encoding can tell.
        texts: which of the encoders read captions.
    """
    known = {name: sha256 for name, sha256 in made_from.items() if sha256}
    pictures = {name: sha256 for name, sha256 in known.items() if name not in texts}
    stale = set(pictures) if len(set(pictures.values())) > 1 else set()
    if read := known.keys() - pictures.keys():
        current = caption_fingerprint(caption).sha256 if isinstance(caption, str) else ""
        stale |= {name for name in read if known[name].hex() != current}
    return stale


def numbered_records(path: Path) -> Iterator[tuple[int, str | None, bytes]]:
    """(number from 1, id, raw line as it is) of every line; the id of a bad line is None."""
    if path.exists():
        with path.open("rb") as file:
            yield from _numbered(file)


def _numbered(file: BinaryIO) -> Iterator[tuple[int, str | None, bytes]]:
    for number, raw in enumerate(file, 1):
        key = None
        with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
            key = image_id(json.loads(raw))
        yield number, key, raw


@dataclass(frozen=True)
class Records:
    """A records file, from which lines can be taken and put back, as from a `Ledger`; need not exist."""

    path: Path

    def lines(self) -> Iterator[tuple[int, str | None, bytes]]:
        """As `numbered_records`."""
        return numbered_records(self.path)

    def forget(self, keys: Container[str]) -> None:
        """Publish the records without some; all other lines stay as they are, bad ones too."""
        kept = (raw for _, key, raw in self.lines() if key is None or key not in keys)
        publish(self.path, lambda file: file.writelines(kept))

    def remember(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Put back some of `lines`, given as (number, raw line) by number.

        After `forget` this gives the file as it was; otherwise each comes as near to its number as it can.
        """
        there, back = self.lines(), dict(lines)

        def merged() -> Iterator[bytes]:
            for number in itertools.count(1):
                line = back.pop(number, None) or next((raw for _, _, raw in there), None)
                if line is None:
                    break
                yield line
            yield from back.values()

        def write(file: BinaryIO) -> None:
            before = b""
            for line in merged():
                file.write(b"\n" if before and not before.endswith(b"\n") else b"")
                file.write(line)
                before = line

        publish(self.path, write)


def _offsets(file: BinaryIO, damage: Damage) -> dict[str, int]:
    """Id -> offset of each record; of equal ids the last counts, the others are damage."""
    offsets: dict[str, tuple[int, int]] = {}
    replaced: list[tuple[int, int]] = []
    offset = 0
    for number, key, raw in _numbered(file):
        if key is None:
            damage.lines.append((number, raw, not raw.endswith(b"\n")))
        else:
            replaced += [offsets[key]] if key in offsets else []
            offsets[key] = (number, offset)
        offset += len(raw)
    damage.lines += [(number, _line_at(file, offset), False) for number, offset in replaced]
    damage.lines.sort()
    return {key: offset for key, (_, offset) in offsets.items()}


def _line_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline().rstrip(b"\r\n")


def _facts_by_key(root: Path, keys: list[str]) -> Iterator[tuple[str, dict[str, tuple[str, dict[str, Any]]]]]:
    """Key -> encoder -> (sha256 of what its output was made from, facts), of all folded ledgers, by key.

    ``keys``, which are sorted, are there too where no ledger has them.
    """

    def rows(encoder: str) -> Iterator[tuple[str, str, tuple[str, dict[str, Any]]]]:
        return ((key, encoder, (sha256, facts)) for key, sha256, facts in read_facts(root, encoder))

    asked = ((key, "", ("", dict[str, Any]())) for key in keys)
    merged = heapq.merge(asked, *map(rows, encoders_done(root)), key=lambda row: row[:2])
    for key, group in itertools.groupby(merged, key=lambda row: row[0]):
        yield key, {encoder: fact for _, encoder, fact in group if encoder}


def _as_edited(source: Source, index: int, old: dict[str, Any]) -> tuple[Item, str | None]:
    """An item with the caption that its record has now, if that was edited since the source read it.

    And where the caption is from; None where nobody knows.
    """
    item, choices = source[index], source.caption_choices(index)
    place = next((place for place, text in choices if text == item.caption), None)
    now = old.get("caption", item.caption)
    if now == item.caption or not isinstance(now, str | None):
        return item, place
    now = (now or "").strip() or None
    copy_edited = now is not None and "caption_source" in old and not is_copy(old)
    if place == RECORD or (place in (LIST, MODEL) and copy_edited):
        return replace(item, caption=now), RECORD
    return item, place


def _is_of(item: Item, sha256: str, facts: dict[str, Any]) -> bool:
    """Whether an output is of the caption that the item has now, if it is of a caption at all.

    One whose caption nobody recorded (an empty sha256) is taken to be of any.
    """
    if "attention_mask_length" not in facts:
        return True
    return item.caption is not None and sha256 in ("", caption_fingerprint(item.caption).sha256)


def _record(
    item: Item,
    place: str | None,
    old: dict[str, Any],
    facts: dict[str, dict[str, Any]],
    encoders: list[str],
    copies: Mapping[str, str],
) -> dict[str, Any]:
    known = {name: fact[name] for fact in facts.values() for name in _OF_THE_PICTURE if name in fact}
    for name, encoder in copies.items():
        fact = facts.get(encoder, {})
        if name == MASK and encoder in encoders and "max_length" in fact:
            fact = {MASK: mask_of(fact)}
        if name in fact:
            known[name] = fact[name]
    theirs = {
        name: {fact: value for fact, value in facts[name].items() if fact not in _OF_THE_PICTURE}
        for name in encoders
    }
    known["facts"] = {name: fact for name, fact in theirs.items() if fact}
    known |= {"image_path": item.location, "image_id": item.key, "format_version": FORMAT_VERSION}
    known["caption"] = old.get("caption") if item.caption is None and not is_copy(old) else item.caption
    if item.caption is not None and place not in (None, RECORD):
        known["caption_source"] = caption_source(place, item.caption)
    if item.label is not None:
        known["label"] = item.label
    merged = {name: value for name, value in old.items() if name not in (MASK, "caption_source")} | known
    record = {name: merged[name] for name in FIELDS if name in merged} | {"encoders": encoders}
    return record | {name: value for name, value in merged.items() if name not in record}


def mask_of(facts: Mapping[str, Any]) -> list[int]:
    """The attention mask of a caption encoder: a 1 for each token that it saw, then zeros."""
    seen, length = facts["attention_mask_length"], facts["max_length"]
    return [1] * seen + [0] * (length - seen)
