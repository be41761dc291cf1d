"""What lies in a library of older records, and what is to become of each: read once, nothing changed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentkit.crawlr.stage1 import (
    CONTRACTS,
    EMBEDDING,
    Fields,
    array_facts,
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
        repeated: lines whose id comes again further down.
        damage: lines that are no record.
        left: line number -> why its record stays at Stage 1.
        dropped: ids of embeddings that cannot be used, where the encoder's own is there.
        unfit: array -> why it does not enter the ledger.
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
        self.repeated = self.bytes = 0
        self.damage = Damage(self.path)
        self.left: dict[int, str] = {}
        self.dropped: set[str] = set()
        self.unfit: dict[Path, str] = {}
        self.changes = False
        self.folders = {
            name: next(iter(store.output_folders(name, contract).values()))
            for name, contract in CONTRACTS.items()
        }
        claims = {name: contract for name in CONTRACTS if (contract := store.contract(name)) is not None}
        self.claimed = claims.keys()
        self.recorded = {name for name, contract in claims.items() if contract.recorded}
        self.there = {name: {key for key, _ in arrays_below(folder)} for name, folder in self.folders.items()}
        self.done = {name: set(read_done(root, name)) for name in {*CONTRACTS, *encoders_done(root)}}
        self._quarantined = Quarantine.read(root).entries

    def read(self, lines: Iterable[bytes]) -> None:
        """Find out what there is to do, from every line of the records."""
        offset, last = 0, ""
        for number, raw in enumerate(lines, 1):
            try:
                fields = parse_line(raw)
                key = image_id(fields.values)
            except (KeyError, TypeError, ValueError, RecursionError):
                if raw.strip():
                    self.damage.lines.append((number, raw, not raw.endswith(b"\n")))
            else:
                self.repeated += key in self.rows
                self.changes, last = self.changes or last >= key, key
                self.rows[key] = self._row(number, offset, raw, key, fields)
            offset += len(raw)
        self.changes |= bool(self.damage.lines) or not all(row.settled for row in self.rows.values())

    @property
    def moved(self) -> int:
        """Embeddings that leave their record."""
        return sum(row.embedding is not None for row in self.rows.values())

    @property
    def entered(self) -> Counter[str]:
        """Encoder -> arrays that were there already, and enter the ledger."""
        return Counter(name for row in self.rows.values() for name in row.enters)

    @property
    def unrecorded(self) -> dict[str, Path]:
        """Encoder -> folder, where it is not recorded what made the arrays."""
        arrays = self.claimed | {name for name, keys in self.there.items() if keys}
        moving = {"dinov3"} if self.moved else set()
        return {name: self.folders[name] for name in CONTRACTS if name in (arrays | moving) - self.recorded}

    def to_dict(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {
            "records": len(self.rows),
            "moved": self.moved,
            "dropped": sorted(self.dropped),
            "entered": dict(self.entered),
            "left": {str(line): why for line, why in sorted(self.left.items())},
            "unfit": {str(path): why for path, why in self.unfit.items()},
            "bad_lines": len(self.damage.lines),
        }

    def encoders(self, key: str, more: Sequence[str] = ()) -> list[str]:
        """Whose outputs the record of a picture names, and those of `more`."""
        names = {name for name, keys in self.done.items() if key in keys}.union(more)
        return sorted(name for name in names if key not in self._quarantined.get(name, {}))

    def array(self, name: str, key: str) -> Path:
        """Where an encoder's array of a picture lies."""
        return array_path(self.folders[name], key)

    def facts(self, name: str, key: str, fields: Fields) -> dict[str, Any]:
        """`array_facts` of an array that is there. Raises ValueError or LatentkitError when it is unfit."""
        (declared,) = CONTRACTS[name].outputs.values()
        return array_facts(name, fields.values, npy_shape(self.array(name, key), declared))

    def embedding(self, key: str) -> np.ndarray:
        """The DINOv3 embedding that is there. Raises LatentkitError when it is not what it should be."""
        return read_npy(self.array("dinov3", key), CONTRACTS["dinov3"].outputs["embeddings"])

    def _row(self, number: int, offset: int, raw: bytes, key: str, fields: Fields) -> Row:
        before = self.rows.get(key)
        embedding = before.embedding if before else None
        inline = fields.values.get(EMBEDDING)
        if inline is not None:
            embedding = offset
            if before:
                self.left.pop(before.number, None)
            self.dropped.discard(key)
            try:
                self._check(key, inline)
            except (ValueError, LatentkitError) as error:
                embedding = None
                self.left[number] = f"{key!r}: {error}"
        moves = inline is not None or embedding is not None
        enters = tuple(
            name for name in CONTRACTS if not (moves and name == "dinov3") and self._enters(name, key, fields)
        )
        if inline is not None and embedding is None:
            self.bytes += len(raw)
            return Row(number, offset, None, enters, settled=not enters)
        line = stage2_line(key, fields, self.encoders(key, enters))
        self.bytes += len(line) + 1
        return Row(number, offset, embedding, enters, not (moves or enters) and line == raw.rstrip(b"\r\n"))

    def _check(self, key: str, value: Any) -> None:
        """Whether an embedding may leave its record; notes one that is of no use.

        Raises:
            ValueError, LatentkitError: why it has to stay.
        """
        refuse_unsafe(key)
        there = key in self.there["dinov3"]
        encoded = "dinov3" in self.recorded and there and key in self.done["dinov3"]
        try:
            embedding = parse_embedding(value)
        except ValueError:
            if not encoded:
                raise
            self.dropped.add(key)
            return
        if "dinov3" in self.recorded:
            if not encoded:
                raise ValueError(f"{self.folders['dinov3']} has a recorded contract: encode this picture")
        elif there and not np.array_equal(self.embedding(key), embedding):
            raise ValueError(f"{self.array('dinov3', key)} holds other numbers")

    def _enters(self, name: str, key: str, fields: Fields) -> bool:
        """Whether an array that is there belongs into the ledger; notes why not."""
        if name in self.recorded or key not in self.there[name] or key in self.done[name]:
            return False
        path = self.array(name, key)
        self.unfit.pop(path, None)
        try:
            self.facts(name, key, fields)
        except (ValueError, LatentkitError) as error:
            self.unfit[path] = str(error)
        return path not in self.unfit
