"""Holding an `NpyStore` against its contracts, ledgers, records and pictures, every array read once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from latentkit.encoders.contract import Contract
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable
from latentkit.sources.library import Library
from latentkit.sources.source import Source
from latentkit.stores.ledger import Damage, done_ledger, done_path, encoders_begun, read_lines
from latentkit.stores.npy import NpyStore, array_path, arrays_below
from latentkit.stores.quarantine import Quarantine, bad_lines
from latentkit.stores.records import image_id, stale_outputs
from latentkit.stores.storage import find_temporaries
from latentkit.stores.store import LEDGERS
from latentkit.upkeep.contracts import read_contracts, require_outputs
from latentkit.upkeep.findings import ARRAYS, Finding
from latentkit.upkeep.inspection import Output, inspect_all
from latentkit.upkeep.record_checks import Listed, check_record, listed_facts


class EncoderState(NamedTuple):
    """One encoder's outputs, in pictures.

    Attributes:
        done: listed in the ledger, not found bad, and not stale.
        bad: whose output is missing or wrong.
        quarantined: held back because they failed.
        unchecked: listed in the ledger, without a readable contract to hold their arrays against.
        incomplete: not done yet, for whatever other reason, or stale (`stale_outputs`): to be encoded;
            nothing is wrong with that.
    """

    encoder: str
    done: int
    bad: int
    quarantined: int
    unchecked: int
    incomplete: int


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Attributes:
        pictures: in the collection.
        records: lines of the records file; None where there is no such file.
        arrays, bytes: that were read.
        things: what was read, in one word.
    """

    findings: list[Finding]
    encoders: list[EncoderState]
    pictures: int
    records: int | None
    arrays: int
    bytes: int
    things: str = "array"


@dataclass(frozen=True)
class Pictures:
    """What the outputs are held against.

    Attributes:
        keys: of every picture.
        broken: links of the photo library that lead to nothing.
    """

    keys: Set[str]
    broken: list[Path]

    @classmethod
    def of(cls, source: Source, library: Library | None) -> Pictures:
        """Those of a collection, which is a photo library or not."""
        if library is None:
            return cls(set(source.keys()), [])
        found = library.survey()
        return cls(found.keys, [library.root / name for name in found.links])


class Verification:
    """One look at everything; changes nothing. For an output that nobody writes meanwhile.

    Args:
        store: the outputs.
        pictures: what they are held against.
        read: whether to read the arrays' numbers; else names and sizes are all that is looked at.
    """

    def __init__(self, store: NpyStore, pictures: Pictures, *, read: bool = True) -> None:
        self._store = store
        self._root = Path(store.root)
        self._keys = pictures.keys
        self._read = read
        self._findings = [Finding("link", printable(path), "its file is gone") for path in pictures.broken]
        self._stale: set[tuple[str, str]] = set()
        self._arrays = self._bytes = 0

    def run(self, console: Console) -> Verified:
        """Look at everything.

        Raises:
            LatentkitError: there is no output at all, or none that lies in `.npy` files.
        """
        require_outputs(self._store)
        self._find_temporaries()
        contracts, found = read_contracts(self._store)
        self._findings += found
        listed = {name: self._read_ledger(name) for name in encoders_begun(self._root)}
        for name in listed.keys() - contracts.keys():
            folder = self._store.contract_path(name).parent
            self._compare(name, folder, listed[name].keys(), {key for key, _ in arrays_below(folder)})
        self._check_arrays(contracts, listed, console)
        records = self._check_records(listed)
        quarantine = self._check_quarantine()
        states = [
            self._state(name, listed.get(name, {}).keys(), quarantine, name in contracts)
            for name in sorted({*contracts, *listed})
        ]
        order = sorted(self._findings, key=lambda found: (found.kind, found.path, found.key or ""))
        return Verified(order, states, len(self._keys), records, self._arrays, self._bytes)

    def _find(
        self, kind: str, path: Path, detail: str, encoder: str | None = None, key: str | None = None
    ) -> None:
        self._findings.append(Finding(kind, printable(path), detail, encoder, key))

    def _find_temporaries(self) -> None:
        places = [(self._root, False), (self._root / LEDGERS, True)]
        places += [(folder, True) for folder in self._store.array_folders().values()]
        for folder, below in places:
            for path in find_temporaries(folder, below=below):
                self._find("temporary", path, "a killed process left it")

    def _read_ledger(self, encoder: str) -> dict[str, Listed]:
        listed: dict[str, Listed] = {}
        for path in (done_path(self._root, encoder), *done_ledger(self._root, encoder).segments()):
            damage = Damage(path)
            listed.update(entry for entry, _ in read_lines(path, _parse_listed, damage))
            for number, _, cut in damage.lines:
                self._find("line", path, f"line {number} is {'cut' if cut else 'bad'}", encoder)
        for key in sorted(listed.keys() - self._keys):
            self._find("orphan", done_path(self._root, encoder), "in the ledger", encoder, key)
        return listed

    def _check_arrays(
        self, contracts: Mapping[str, Contract], listed: Mapping[str, Mapping[str, Listed]], console: Console
    ) -> None:
        outputs: list[Output] = []
        sizes: dict[str, dict[str, int]] = {encoder: {} for encoder in contracts}
        for encoder, contract in contracts.items():
            ledger = listed.get(encoder, {})
            for name, folder in self._store.output_folders(encoder, contract).items():
                there: dict[str, int] = {}
                odd: set[str] = set()
                for key, file in arrays_below(folder):
                    there[key] = file.stat(follow_symlinks=False).st_size
                    if not file.is_file():
                        odd.add(key)
                self._compare(encoder, folder, ledger.keys(), there.keys())
                for key in odd & ledger.keys() & self._keys:
                    self._find("unreadable", array_path(folder, key), "no regular file", encoder, key)
                for key, size in there.items():
                    sizes[encoder][key] = sizes[encoder].get(key, 0) + size
                keys = sorted((ledger.keys() & self._keys & there.keys()) - odd)
                outputs.append(Output(encoder, folder, contract, name, keys))
                self._bytes += sum(there[key] for key in keys)
        if self._read:
            self._arrays = sum(len(output.keys) for output in outputs)
            with ProgressReport("verify", self._arrays, console, "arrays") as report:
                for count, found in inspect_all(outputs, listed):
                    self._findings += found
                    report.advance(count)
        bad = {(found.encoder, found.key) for found in self._findings if found.kind in ARRAYS}
        for encoder, there in sizes.items():
            for key, entry in listed.get(encoder, {}).items():
                if key in self._keys and (encoder, key) not in bad and there[key] != entry.bytes:
                    path = array_path(self._root / self._store.folders.get(encoder, encoder), key)
                    detail = f"{there[key]} bytes, the ledger says {entry.bytes}"
                    self._find("changed", path, detail, encoder, key)

    def _compare(self, encoder: str, folder: Path, ledger: Set[str], there: Set[str]) -> None:
        """Names in a folder of arrays against the ledger's and the pictures'."""
        for key in there - self._keys:
            self._find("orphan", array_path(folder, key), "an array", encoder, key)
        for key in (there & self._keys) - ledger:
            self._find("unlisted", array_path(folder, key), "no ledger lists it", encoder, key)
        for key in (ledger & self._keys) - there:
            self._find("missing", array_path(folder, key), "the ledger lists it", encoder, key)

    def _check_records(self, listed: Mapping[str, Mapping[str, Listed]]) -> int:
        """Every record; how many lines there are."""
        path = self._root / self._store.records
        seen: set[str] = set()
        number = 0
        for number, raw in _numbered(path):
            try:
                record = json.loads(raw)
                key = image_id(record)
            except (KeyError, TypeError, ValueError, RecursionError):
                self._find("line", path, f"line {number} is bad")
                continue
            if key in seen:
                self._find("duplicate", path, f"line {number}", key=key)
            seen.add(key)
            if key not in self._keys:
                self._find("orphan", path, "a record", key=key)
                continue
            entries = {name: ledger[key] for name, ledger in listed.items() if key in ledger}
            for kind, detail in check_record(record, entries, self._store.record_fields):
                self._find(kind, path, detail, key=key)
            made_from = {name: entry.sha256 for name, entry in entries.items()}
            texts = {name for name, entry in entries.items() if entry.length is not None}
            stale = stale_outputs(record.get("caption"), made_from, texts)
            self._stale.update((name, key) for name in stale)
        done = {key for ledger in listed.values() for key in ledger} & self._keys
        for key in done - seen:
            self._find("unrecorded", path, "done, without a record", key=key)
        return number

    def _check_quarantine(self) -> Quarantine:
        path = self._root / "quarantine.jsonl"
        for number in bad_lines(self._root):
            self._find("line", path, f"line {number} is bad")
        quarantine = Quarantine.read(self._root)
        for key in sorted(quarantine.keys() - self._keys):
            self._find("orphan", path, "in quarantine", key=key)
        return quarantine

    def _state(self, encoder: str, ledger: Set[str], quarantine: Quarantine, checked: bool) -> EncoderState:
        bad = {found.key for found in self._findings if found.kind in ARRAYS and found.encoder == encoder}
        held = quarantine.held(encoder).keys() & self._keys
        done = {key for key in (ledger & self._keys) - bad if (encoder, key) not in self._stale}
        whole, unchecked = (len(done), 0) if checked else (0, len(done))
        return EncoderState(
            encoder,
            whole,
            len(bad),
            len(held - done),
            unchecked,
            len(self._keys - done - bad - held),
        )


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    if path.exists():
        with path.open("rb") as file:
            yield from enumerate(file, 1)


def _parse_listed(line: dict[str, Any]) -> tuple[str, Listed]:
    key, size, facts = line["key"], line["bytes"], line["facts"]
    if not isinstance(key, str) or not isinstance(size, int) or not isinstance(facts, dict):
        raise TypeError("wrong fields")
    return key, listed_facts(bytes.fromhex(line["sha256"]), size, facts)
