"""What lies in a library of older records, and what is to become of each: read once, nothing changed."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentkit.crawlr import stage1
from latentkit.errors import LatentkitError
from latentkit.stores import NpyStore, Quarantine
from latentkit.stores.arrays import npy_shape, read_npy
from latentkit.stores.ledger import Damage, encoders_done, read_done
from latentkit.stores.npy import array_path, arrays_below
from latentkit.stores.records import INLINE, image_id


class Row(NamedTuple):
    """What is to be done with a record.

    Attributes:
        offset: of its line in the old file.
        line: the new record, without its newline; None when the old line stays as it is.
        embedding: offset of the line whose embedding leaves the records; None when none does.
        enters: encoder -> facts, of each array that enters the ledger.
    """

    offset: int
    line: bytes | None
    embedding: int | None
    enters: dict[str, dict[str, Any]]


class Survey:
    """The library as it is. In memory are the ids and the new records, which are short; no embeddings.

    Attributes:
        path: the records.
        rows: image id -> what is to be done; of several lines of one id the last counts.
        repeated: how many lines have an id that comes again further down.
        damage: lines that are no record.
        left: image id -> (line number, reason), of each record that stays at Stage 1.
        dropped: ids of embeddings that cannot be used, where the encoder's own is there.
        unfit: array -> why it does not enter the ledger.
        folders: encoder -> where its arrays lie.
        claimed: the encoders whose folder has a contract.
        recorded: the encoders whose folder has a contract of latentkit's own.
        there: encoder -> image ids that have an array.
        bytes: size of the new records.
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
        self.left: dict[str, tuple[int, str]] = {}
        self.dropped: set[str] = set()
        self.unfit: dict[Path, str] = {}
        self.changes = False
        self.folders = {
            name: next(iter(store.output_folders(name, contract).values()))
            for name, contract in stage1.CONTRACTS.items()
        }
        claims = {name: contract for name in self.folders if (contract := store.contract(name)) is not None}
        self.claimed = claims.keys()
        self.recorded = {name for name, contract in claims.items() if contract.recorded}
        self.there = {name: {key for key, _ in arrays_below(folder)} for name, folder in self.folders.items()}
        self._done = {name: set(read_done(root, name)) for name in {*self.folders, *encoders_done(root)}}
        self._quarantined = Quarantine.read(root)

    def read(self, lines: Iterable[bytes]) -> None:
        """Find out what there is to do, from every line of the records."""
        offset, last = 0, ""
        for number, raw in enumerate(lines, 1):
            try:
                fields = stage1.parse_line(raw)
                key = image_id(fields.values)
            except (KeyError, TypeError, ValueError, RecursionError):
                if raw.strip():
                    self.damage.lines.append((number, raw, not raw.endswith(b"\n")))
            else:
                if inline := fields.values.get(INLINE) is not None:
                    self._check(number, key, fields.values[INLINE])
                self.repeated += key in self.rows
                row = self.rows[key] = self._row(offset, raw, key, fields, inline=inline)
                self.bytes += len(row.line or raw) + 1
                self.changes |= last >= key or row.line is not None or bool(row.enters)
                last = key
            offset += len(raw)
        self.changes |= bool(self.damage.lines)

    @property
    def moved(self) -> int:
        """Embeddings that leave their record."""
        return sum(row.embedding is not None for row in self.rows.values())

    @property
    def entered(self) -> Counter[str]:
        """Encoder -> arrays that were there already, and enter the ledger."""
        return Counter(
            name
            for row in self.rows.values()
            for name in row.enters
            if name != "dinov3" or row.embedding is None
        )

    @property
    def unrecorded(self) -> dict[str, Path]:
        """Encoder -> folder, where it is not recorded what made the arrays."""
        arrays = self.claimed | {name for name, keys in self.there.items() if keys}
        moving = {"dinov3"} if self.moved else set()
        unknown = (arrays | moving) - self.recorded
        return {name: folder for name, folder in self.folders.items() if name in unknown}

    @property
    def left_lines(self) -> dict[int, str]:
        """Line number -> why its record stays at Stage 1, in the order of the lines."""
        return dict(sorted(self.left.values()))

    def to_dict(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {
            "records": len(self.rows),
            "moved": self.moved,
            "dropped": sorted(self.dropped),
            "entered": dict(self.entered),
            "left": {str(line): why for line, why in self.left_lines.items()},
            "unfit": {str(path): why for path, why in self.unfit.items()},
            "bad_lines": len(self.damage.lines),
        }

    def array(self, name: str, key: str) -> Path:
        """Where an encoder's array of a picture lies."""
        return array_path(self.folders[name], key)

    def embedding(self, key: str) -> np.ndarray:
        """The DINOv3 embedding that is there. Raises LatentkitError when it is not what it should be."""
        return read_npy(self.array("dinov3", key), stage1.CONTRACTS["dinov3"].outputs["embeddings"])

    def _row(self, offset: int, raw: bytes, key: str, fields: stage1.Fields, *, inline: bool) -> Row:
        before = self.rows.get(key)
        embedding = offset if inline else before.embedding if before else None
        stays = inline and key in self.left
        moves = embedding is not None
        enters = {
            name: facts
            for name in self.folders
            if not (moves and name == "dinov3") and (facts := self._facts(name, key, fields)) is not None
        }
        if stays:
            return Row(offset, None, None, enters)
        if moves and "dinov3" not in self.recorded and key not in self._done["dinov3"]:
            enters["dinov3"] = stage1.array_facts("dinov3", fields.values, ())
        encoders = {name for name, keys in self._done.items() if key in keys}.union(enters)
        usable = sorted(name for name in encoders if key not in self._quarantined.held(name))
        line = stage1.stage2_line(key, fields, usable)
        return Row(offset, None if line == raw.rstrip(b"\r\n") else line, embedding, enters)

    def _check(self, number: int, key: str, value: Any) -> None:
        """Note whether an embedding has to stay in its record, or is of no use."""
        self.left.pop(key, None)
        self.dropped.discard(key)
        there = key in self.there["dinov3"]
        encoded = "dinov3" in self.recorded and there and key in self._done["dinov3"]
        try:
            stage1.refuse_unsafe(key)
            try:
                embedding = stage1.parse_embedding(value)
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
        except (ValueError, LatentkitError) as error:
            self.left[key] = number, f"{key!r}: {error}"

    def _facts(self, name: str, key: str, fields: stage1.Fields) -> dict[str, Any] | None:
        """What the ledger is to say of an array; None when it does not enter, and notes why it cannot."""
        if name in self.recorded or key not in self.there[name] or key in self._done[name]:
            return None
        path = self.array(name, key)
        self.unfit.pop(path, None)
        (declared,) = stage1.CONTRACTS[name].outputs.values()
        try:
            return stage1.array_facts(name, fields.values, npy_shape(path, declared))
        except (ValueError, LatentkitError) as error:
            self.unfit[path] = str(error)
            return None
