"""What lies in a library of older records, and what is to become of each: read once, nothing changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentkit.crawlr.migrated import Migrated
from latentkit.crawlr.stage1 import (
    CONTRACTS,
    Field,
    array_facts,
    inline_embedding,
    parse_embedding,
    parse_line,
    refuse_unsafe,
    stage2_line,
)
from latentkit.errors import LatentkitError
from latentkit.stores import NpyStore, Quarantine
from latentkit.stores.arrays import npy_shape, read_npy
from latentkit.stores.ledger import Damage, encoders_done, read_done
from latentkit.stores.npy import array_path, arrays_below
from latentkit.stores.records import image_id


class Row(NamedTuple):
    """Where a record stands, and what is to be done with it.

    Attributes:
        number, offset: of its line; the number counts from 1.
        embedding: offset of the line whose embedding is to leave the records; None when none is.
        enters: the encoders whose arrays are there and not in the ledger.
        settled: whether the line stays as it is.
    """

    number: int
    offset: int
    embedding: int | None
    enters: tuple[str, ...]
    settled: bool


class Survey:
    """The library as it is. In memory are ids, never records.

    Attributes:
        path: the records.
        rows: image id -> what is to be done; of several lines the last counts.
        damage: lines that are no record.
        folders: encoder -> where its arrays lie.
        claimed: the encoders whose folder has a contract.
        recorded: the encoders whose folder has a contract of latentkit's own.
        there: encoder -> image ids that have an array.
        done: encoder -> image ids that the ledger knows.
        bytes: of the new records; an upper bound.
        changes: whether the records file has to change.

    Raises:
        LatentkitError: a contract is damaged.
    """

    def __init__(self, store: NpyStore) -> None:
        root = Path(store.root)
        self.path = root / store.records
        self.rows: dict[str, Row] = {}
        self.damage = Damage(self.path)
        self.folders = {
            name: next(iter(store.output_folders(name, contract).values()))
            for name, contract in CONTRACTS.items()
        }
        claims = {name: store.contract(name) for name in CONTRACTS}
        self.claimed = {name for name, contract in claims.items() if contract is not None}
        self.recorded = {name for name, contract in claims.items() if contract and contract.recorded}
        self.there = {name: {key for key, _ in arrays_below(folder)} for name, folder in self.folders.items()}
        self.done = {name: set(read_done(root, name)) for name in {*CONTRACTS, *encoders_done(root)}}
        self.bytes = 0
        self.changes = False
        self._quarantined = Quarantine.read(root).entries
        self._found = Migrated()

    def read(self, advance: Callable[[], None]) -> Migrated:
        """Read the records; what there is to do.

        Args:
            advance: called after each line; what it raises ends the reading.
        """
        found, last = self._found, ""
        with self.path.open("rb") as file:
            offset = 0
            for number, raw in enumerate(file, 1):
                try:
                    fields = parse_line(raw)
                    key = image_id({name: value for name, (value, _) in fields.items()})
                except (KeyError, TypeError, ValueError, RecursionError):
                    if raw.strip():
                        self.damage.lines.append((number, raw, not raw.endswith(b"\n")))
                else:
                    found.repeated += key in self.rows
                    self.changes, last = self.changes or last >= key, key
                    self.rows[key] = self._row(number, offset, raw, key, fields)
                offset += len(raw)
                advance()
        rows = self.rows.values()
        self.changes = self.changes or bool(self.damage.lines) or not all(row.settled for row in rows)
        found.records, found.bad_lines = len(rows), len(self.damage.lines)
        found.moved = sum(row.embedding is not None for row in rows)
        found.entered = Counter(name for row in rows for name in row.enters)
        found.unrecorded = {name: self.folders[name] for name in CONTRACTS if self._is_unrecorded(name)}
        return found

    def encoders(self, key: str, more: Sequence[str] = ()) -> list[str]:
        """Whose outputs the record of a picture names, and those of `more`."""
        names = {name for name, keys in self.done.items() if key in keys}.union(more)
        return sorted(name for name in names if key not in self._quarantined.get(name, {}))

    def array(self, name: str, key: str) -> Path:
        """Where an encoder's array of a picture lies."""
        return array_path(self.folders[name], key)

    def shape(self, name: str, key: str) -> tuple[int, ...]:
        """Of an array that is there. Raises LatentkitError when it is not what it should be."""
        (declared,) = CONTRACTS[name].outputs.values()
        return npy_shape(self.array(name, key), declared)

    def embedding(self, key: str) -> np.ndarray:
        """The DINOv3 embedding that is there. Raises LatentkitError when it is not what it should be."""
        return read_npy(self.array("dinov3", key), CONTRACTS["dinov3"].outputs["embeddings"])

    def _row(self, number: int, offset: int, raw: bytes, key: str, fields: dict[str, Field]) -> Row:
        before = self.rows.get(key)
        embedding = before.embedding if before else None
        inline = inline_embedding(fields)
        if inline is not None:
            embedding = offset
            if before:
                self._found.left.pop(before.number, None)
            self._found.dropped.discard(key)
            try:
                if not self._check(key, inline):
                    self._found.dropped.add(key)
            except (ValueError, LatentkitError) as error:
                embedding = None
                self._found.left[number] = f"{key!r}: {error}"
        conflicts = {"dinov3"} if inline is not None or embedding is not None else set()
        enters = tuple(
            name for name in CONTRACTS if name not in conflicts and self._enters(name, key, fields)
        )
        if inline is not None and embedding is None:
            self.bytes += len(raw)
            return Row(number, offset, None, enters, settled=not enters)
        line = stage2_line(key, fields, self.encoders(key, enters))
        self.bytes += len(line) + 1
        same = embedding is None and not enters and line == raw.rstrip(b"\r\n")
        return Row(number, offset, embedding, enters, same)

    def _check(self, key: str, value: Any) -> bool:
        """Whether an embedding that may leave its record can be used.

        Raises:
            ValueError, LatentkitError: why it has to stay.
        """
        refuse_unsafe(key)
        there = key in self.there["dinov3"]
        encoded = "dinov3" in self.recorded and there and key in self.done["dinov3"]
        try:
            embedding = parse_embedding(value)
        except ValueError:
            if encoded:
                return False
            raise
        if "dinov3" in self.recorded:
            if not encoded:
                raise ValueError(f"{self.folders['dinov3']} has a recorded contract: encode this picture")
        elif there and not np.array_equal(self.embedding(key), embedding):
            raise ValueError(f"{self.array('dinov3', key)} holds other numbers")
        return True

    def _enters(self, name: str, key: str, fields: dict[str, Field]) -> bool:
        """Whether an array that is there belongs into the ledger; notes why not."""
        if name in self.recorded or key not in self.there[name] or key in self.done[name]:
            return False
        path = self.array(name, key)
        self._found.unfit.pop(path, None)
        try:
            array_facts(name, fields, self.shape(name, key))
        except (ValueError, LatentkitError) as error:
            self._found.unfit[path] = str(error)
            return False
        return True

    def _is_unrecorded(self, name: str) -> bool:
        moves = name == "dinov3" and self._found.moved > 0
        return name not in self.recorded and (name in self.claimed or moves or bool(self.there[name]))
