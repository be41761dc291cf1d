"""Holding a ``.npy`` a picture against contracts, ledgers, records and pictures; every array is read once."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

from rich.console import Console

from latentkit.encoders.contract import Contract, resolve_shape
from latentkit.errors import LatentkitError
from latentkit.runtime.progress import ProgressReport
from latentkit.stores.arrays import inspect_npy
from latentkit.stores.contract_file import CONTRACT, read_contract
from latentkit.stores.ledger import Ledger, done_ledger, encoders_begun
from latentkit.stores.npy import NpyStore, array_path, arrays_below
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.records import numbered_records, stale_outputs
from latentkit.stores.storage import move_many
from latentkit.upkeep.record_checks import Listed, check_record, parse_listed
from latentkit.upkeep.verification import FULL, EncoderState, Verification, in_threads

_CHUNK = 64
_HINT = "encode first, or set output_dir"


_Chunk = tuple[str, str, list[str]]
"""Encoder, output, and keys of some arrays to be read."""


class NpyVerification(Verification[NpyStore]):
    """What is not encoded yet is counted, not wrong."""

    things = "array"

    def _require(self) -> None:
        root = self.root
        if not root.is_dir():
            raise LatentkitError(f"{root} does not exist: {_HINT}")
        for path in (root / "manifest.json", *sorted(root.glob("*/manifest.json"))):
            try:
                encoder = read_contract(path).encoder
            except LatentkitError:
                continue  # there is none, or one of tars
            raise LatentkitError(f"{path.parent} holds {encoder} in shards: give store=shards")
        contracts = any((folder / CONTRACT).exists() for folder in self.store.array_folders())
        if not (contracts or encoders_begun(root) or (root / self.store.records).exists()):
            raise LatentkitError(f"{root} holds no encoder's contract.json: {_HINT}")

    def _check(self, console: Console) -> list[EncoderState]:
        self._keys: Set[str] = set(self.source.keys())
        if self.library is not None:
            survey = self.library.survey()
            self._keys = survey.keys
            for name in survey.links:
                self.find("link", self.library.root / name, "its file is gone")
        self.pictures = len(self._keys)
        self._contracts = self._read_contracts()
        encoders = sorted({*self._contracts, *encoders_begun(self.root)})
        self._listed = {encoder: self._read_ledger(encoder) for encoder in encoders}
        self._sizes: Counter[tuple[str, str]] = Counter()
        chunks = [chunk for encoder in encoders for chunk in self._compare(encoder)]
        if self.mode == FULL:
            self.arrays = sum(len(keys) for _, _, keys in chunks)
            with ProgressReport("verify", self.arrays, console, "arrays") as report:
                for (_, _, keys), _ in in_threads(self._inspect, chunks):
                    report.advance(len(keys))
        bad = self.bad()
        for encoder in self._contracts:
            first = self.store.folder(encoder)
            for key in self._listed[encoder].keys() & (self._keys - bad.get(encoder, set())):
                size, listed = self._sizes[encoder, key], self._listed[encoder][key].bytes
                if size != listed:
                    detail = f"{size} bytes, the ledger says {listed}"
                    self.find("changed", array_path(first, key), detail, encoder, key)
        stale = self._check_records()
        quarantine = Quarantine.read(self.root)
        for key in quarantine.keys() - self._keys:
            self.find("orphan", self.root / "quarantine.jsonl", "in quarantine", key=key)
        return [self._state(encoder, stale, quarantine) for encoder in encoders]

    def _read_contracts(self) -> dict[str, Contract]:
        """Encoder -> contract, of folders that are their encoders'."""
        contracts: dict[str, Contract] = {}
        without = set(self.store.array_folders())
        for path in [folder / CONTRACT for folder in sorted(without) if (folder / CONTRACT).exists()]:
            without.remove(path.parent)
            try:
                contract = read_contract(path)
            except LatentkitError as error:
                self.find("contract", path, str(error))
                continue
            encoder = contract.encoder
            if (there := self.store.folder(encoder)) != path.parent:
                detail = f"is {encoder}'s, whose folder is {there.relative_to(self.root)}"
                self.find("contract", path, detail, encoder)
            else:
                contracts[encoder] = contract
        for encoder, contract in contracts.items():
            without.difference_update(self.store.output_folders(encoder, contract).values())
        for folder in without:
            if count := sum(1 for _ in arrays_below(folder)):
                self.find("contract", folder / CONTRACT, f"missing, beside {count:,} arrays")
        return contracts

    def _read_ledger(self, encoder: str) -> dict[str, Listed]:
        ledger: Ledger[Any] = done_ledger(self.root, encoder)
        listed = dict(self.read_ledger(replace(ledger, parse=parse_listed), encoder))
        for key in listed.keys() - self._keys:
            self.find("orphan", ledger.path, "in the ledger", encoder, key)
        return listed

    def _compare(self, encoder: str) -> Iterator[_Chunk]:
        """Names in the folders of arrays against the ledger's and the pictures'; what is left to read."""
        contract, wanted = self._contracts.get(encoder), self._keys
        ledger = self._listed[encoder].keys()
        folders = {"": self.store.folder(encoder)}
        if contract is not None:
            folders = self.store.output_folders(encoder, contract)
        for output, folder in folders.items():
            there, whole = dict(arrays_below(folder)), []
            for kind, detail, keys in (
                ("orphan", "an array", there.keys() - wanted),
                ("unlisted", "no ledger lists it", (there.keys() & wanted) - ledger),
                ("missing", "the ledger lists it", (ledger & wanted) - there.keys()),
            ):
                for key in keys:
                    self.find(kind, array_path(folder, key), detail, encoder, key)
            for key in (there.keys() & wanted & ledger) if contract else ():
                self._sizes[encoder, key] += (size := there[key].stat(follow_symlinks=False).st_size)
                if there[key].is_file():
                    whole.append(key)
                    self.bytes += size
                else:
                    self.find("unreadable", array_path(folder, key), "no regular file", encoder, key)
            whole.sort()
            yield from ((encoder, output, whole[at : at + _CHUNK]) for at in range(0, len(whole), _CHUNK))

    def _inspect(self, chunk: _Chunk) -> None:
        """In a thread: read some arrays."""
        encoder, output, keys = chunk
        contract = self._contracts[encoder]
        folder = self.store.output_folders(encoder, contract)[output]
        for key in keys:
            path = array_path(folder, key)
            if problem := inspect_npy(path, _declared(contract, output, self._listed[encoder][key])):
                self.find(problem[0], path, problem[1], encoder, key)

    def _check_records(self) -> set[tuple[str, str]]:
        """Every record. Which encoders' outputs of which pictures are stale."""
        path = self.root / self.store.records
        seen: set[str] = set()
        stale: set[tuple[str, str]] = set()
        self.records = 0
        for self.records, key, raw in numbered_records(path):
            if key is None:
                self.find("line", path, f"line {self.records} is bad")
                continue
            if key in seen:
                self.find("duplicate", path, f"line {self.records}", key=key)
            seen.add(key)
            if key not in self._keys:
                self.find("orphan", path, "a record", key=key)
                continue
            record = json.loads(raw)
            entries = {name: ledger[key] for name, ledger in self._listed.items() if key in ledger}
            for kind, detail in check_record(record, entries, self.store.record_fields):
                self.find(kind, path, detail, key=key)
            made_from = {name: entry.sha256 for name, entry in entries.items()}
            texts = {name for name, entry in entries.items() if "max_length" in entry.facts}
            stale |= {(name, key) for name in stale_outputs(record.get("caption"), made_from, texts)}
        done = {key for ledger in self._listed.values() for key in ledger} & self._keys
        for key in done - seen:
            self.find("unrecorded", path, "done, without a record", key=key)
        return stale

    def _state(self, encoder: str, stale: Set[tuple[str, str]], quarantine: Quarantine) -> EncoderState:
        bad = self.bad().get(encoder, set())
        held = quarantine.held(encoder).keys() & self._keys
        listed = self._listed[encoder].keys() & self._keys
        done = {key for key in listed - bad if (encoder, key) not in stale}
        whole, unchecked = (len(done), 0) if encoder in self._contracts else (0, len(done))
        left = len(self._keys - done - bad - held)
        return EncoderState(encoder, whole, len(bad), len(held - done), unchecked, left)

    def _set_aside(self, bad: Mapping[str, Set[str]]) -> None:
        for encoder, keys in bad.items():
            done_ledger(self.root, encoder).forget(keys)
        move_many(
            (array_path(folder, key), array_path(self.aside(folder), key))
            for encoder, keys in bad.items()
            if (contract := self._contracts.get(encoder))
            for folder in self.store.output_folders(encoder, contract).values()
            for key in sorted(keys)
        )
        self.store.publish_records(self.source)


def _declared(contract: Contract, output: str, entry: Listed) -> Mapping[str, Any]:
    """Shape and dtype of one picture's array, ``H/8`` and ``W/8`` in numbers where that is known."""
    declared, facts = contract.outputs[output], entry.facts
    if "aspect_bucket" in facts:
        width, height = map(int, facts["aspect_bucket"].split("x"))
    elif contract.recorded and "width" in facts and "height" in facts:
        width, height = facts["width"], facts["height"]
    else:
        return declared
    return {**declared, "shape": resolve_shape(declared["shape"], height, width)}
