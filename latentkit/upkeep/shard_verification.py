"""Holding latent shards against contracts, sidecars, manifests and the collection."""

import json
import random
from collections.abc import Iterable, Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.console import Console

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.progress import ProgressReport
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.shard_manifest import ShardManifest, reopen
from latentkit.stores.shard_output import LABELS
from latentkit.stores.shards import ShardStore
from latentkit.stores.sidecar import Head, read_entries, read_head, shard_name
from latentkit.stores.storage import move_many, publish_json, remove_many
from latentkit.upkeep.findings import SHARDS
from latentkit.upkeep.shard_inspection import Inspected, inspect_shard
from latentkit.upkeep.verification import FULL, NAMES, QUICK, EncoderState, Verification, in_threads

SAMPLED = 4
"""Shards that `QUICK` reads besides the first and the last."""


class ShardVerification(Verification[ShardStore]):
    """What is not encoded yet is wrong: shards are of a whole collection."""

    things, costly = "shard", SHARDS

    def _require(self) -> None:
        if not self.store.encoders_begun():
            raise LatentkitError(f"{self.root} holds no latent shards: encode first, or set output_dir")

    def _folders(self) -> Iterable[Path]:
        return sorted({self.store.manifest_path(name).parent for name in self.store.encoders_begun()})

    def _check(self, console: Console) -> list[EncoderState]:
        contracts = {name: self._read_contract(name) for name in self.store.encoders_begun()}
        return [
            _Shards(self, name, contract).check(console) for name, contract in contracts.items() if contract
        ]

    def _read_contract(self, encoder: str) -> Contract | None:
        """What the shards' numbers mean; None, and a finding, where that cannot be read."""
        folder, contract = self.store.manifest_path(encoder).parent, None
        problem: str | None = "missing, beside ledgers"
        try:
            if contract := self.store.contract(encoder):
                size = self.store.place(encoder)["shard_size"]
                problem = None if type(size) is int and size > 0 else f"shard_size is {size}"
        except LatentkitError as error:
            problem = str(error)
        if problem:
            self.find("contract", folder, problem, encoder)
            return None
        for name in ("dataset", "split"):
            if (there := self.store.place(encoder)[name]) != getattr(self.store, name):
                raise UsageError(
                    f"{folder} holds {name}={there}, not {getattr(self.store, name)}: "
                    "give the dataset, split and output_dir of its run"
                )
        return contract

    def _set_aside(self, bad: Mapping[str, Set[str]]) -> None:
        """What mentions the shards first, then the files; the manifest last."""
        wrong = {found.encoder for found in self.findings if found.kind == "manifest" and found.encoder}
        unfinished = {found.encoder for found in self.findings if found.kind in {"outdated", "incomplete"}}
        for encoder in sorted(bad.keys() | wrong):
            names = sorted(bad.get(encoder, ()))
            store, contract = self.store.sized_as_there(encoder), self.store.contract(encoder)
            assert contract is not None, "nothing else was found where there is no contract"
            manifest, sidecars = store.manifest_path(encoder), store.sidecar(encoder, 0).parent
            folder, aside = manifest.parent, self.aside(manifest.parent)
            reopen(manifest)
            remove_many(sidecars / f"{PurePosixPath(name).stem}.jsonl" for name in names)
            move_many((folder / name, aside / name) for name in names)
            complete = not names and encoder not in unfinished
            publish_json(manifest, store.describe(encoder, contract, self.source, complete=complete))


class _Shards:
    """One encoder's shards, whatever their size."""

    def __init__(self, look: ShardVerification, encoder: str, contract: Contract) -> None:
        self._look, self._encoder, self._contract = look, encoder, contract
        self._store, self._source = look.store.sized_as_there(encoder), look.source
        self._manifest = self._store.manifest_path(encoder)
        self._folder = self._manifest.parent
        self._numbers = range(self._store.shard_count(look.source))
        self._held = Quarantine.read(look.root).held(encoder).keys()
        self._outputs: dict[str, Any] = dict(contract.outputs)
        if look.source.classes:
            self._outputs[LABELS] = {"shape": [], "dtype": "int64"}
        self._kinds: dict[str, set[str | None]] = {}  # of findings -> their shards

    def check(self, console: Console) -> EncoderState:
        mode, heads = self._look.mode, self._read_heads()
        files = [k for k, head in heads.items() if head.shard is not None]
        some = random.Random(self._look.seed).sample(files[1:-1], min(SAMPLED, len(files[1:-1])))
        deep = {FULL: set(files), QUICK: {*files[:1], *some, *files[-1:]}, NAMES: set[int]()}[mode]
        present: set[int] = set()
        with ProgressReport(f"verify {self._encoder}", len(heads), console, "shards") as report:
            for k, (problems, labels, size) in in_threads(
                lambda k: self._inspect(k, heads[k], deep=k in deep), list(heads)
            ):
                for kind, detail in problems:
                    self._find(kind, self._folder / shard_name(k), detail, shard_name(k))
                self._look.arrays += size > 0
                self._look.bytes += size
                present.update(() if labels is None else np.unique(labels).tolist())
                report.advance()
        listed = {head.shard for head in heads.values()} | self._kinds.get("ledger", set())
        for path in sorted(self._folder.glob("*.safetensors")):  # loaders take all of these for shards
            if path.name not in listed:
                self._find("unlisted", path, "no ledger lists it", path.name)
        state = self._state(heads)
        self._check_manifest(state)
        if len(deep) == len(files) and not state.bad and not state.incomplete and mode != NAMES:
            for label in sorted(set(range(len(self._source.classes))) - present):
                self._find("classes", self._manifest, f"{self._source.classes[label]} has no picture")
        return state

    def _find(self, kind: str, path: Path, detail: str, shard: str | None = None) -> None:
        self._look.find(kind, path, detail, self._encoder, shard)
        self._kinds.setdefault(kind, set()).add(shard)

    def _read_heads(self) -> dict[int, Head]:
        """Number -> what its sidecar says, of the shards that the collection has."""
        heads: dict[int, Head] = {}
        for k in self._numbers:
            path = self._store.sidecar(self._encoder, k)
            head = read_head(path)
            fits = head is not None and head.shard == (shard_name(k) if head.count else None)
            if head is not None and fits and head.contract == self._contract.sha256:
                heads[k] = head
            elif path.exists():
                self._find("ledger", path, "of another contract" if fits else "damaged", shard_name(k))
        return heads

    def _inspect(self, k: int, head: Head, *, deep: bool) -> Inspected:
        """In a thread: the sidecar against the collection, the file against the sidecar."""
        items = self._store.span(k, self._source)
        outdated = None
        if head.items != len(items):
            outdated = f"made of {head.items:,} pictures, the collection has {len(items):,}"
        keys = labels = None
        if deep or (head.shard is None and outdated is None):
            entries = read_entries(self._store.sidecar(self._encoder, k))
            if entries is None or len(entries) != head.items:
                return Inspected([("ledger", "damaged")])
            keys = [key for key, made_from in entries if made_from is not None]
            if len(keys) != head.count:
                return Inspected([("ledger", f"lists {len(keys):,} pictures and says {head.count:,}")])
            outdated = outdated or self._compare(items, [key for key, _ in entries], keys)
            if self._source.classes and outdated is None:
                by_key = {item.key: item.label for item in map(self._source.__getitem__, items)}
                labels = np.array([by_key[key] for key in keys], np.int64)
        problems = [("outdated", outdated)] if outdated else []
        if head.shard is None:
            return Inspected(problems)
        path = self._folder / head.shard
        inspected = inspect_shard(path, head, self._contract, self._outputs, keys, labels)
        return inspected._replace(problems=problems + inspected.problems)

    def _compare(self, items: range, listed: list[str], present: list[str]) -> str | None:
        """How a sidecar's pictures differ from the collection's and the quarantine's."""
        for index, key in zip(items, listed, strict=True):
            if (there := self._source[index].key) != key:
                return f"made with {key} where the collection has {there}"
        if lost := set(listed) - set(present) - self._held:
            return f"{len(lost):,} are neither in it nor in quarantine, such as {min(lost)}"
        return None

    def _check_manifest(self, state: EncoderState) -> None:
        manifest, detail = None, ""
        try:
            manifest = ShardManifest.read(self._manifest)
        except LatentkitError as error:
            detail = "missing" if isinstance(error, UsageError) else str(error)
        if manifest and not self._kinds.keys() & {"ledger", "unlisted"}:  # else the ledgers are wrong first
            there = json.loads(self._manifest.read_bytes())
            ought = self._store.describe(self._encoder, self._contract, self._source, complete=True)
            # Equal hashes are equal contracts, though older ones leave implied values out.
            names = (there.keys() | ought.keys()) - {"complete", "versions", "contract"}
            if wrong := sorted(name for name in names if there.get(name) != ought.get(name)):
                detail = f"not what the ledgers say: {', '.join(wrong)}"
            elif manifest.complete and state.incomplete and "outdated" not in self._kinds:
                detail = f"says that it is complete, {state.incomplete:,} are not there"
        if detail:
            self._find("manifest", self._manifest, detail)
        if self._look.mode == NAMES:
            return
        if state.incomplete:
            self._find("incomplete", self._manifest, f"{state.incomplete:,} of {len(self._source):,}")
        elif manifest and not manifest.complete and not self._kinds:
            self._find("incomplete", self._manifest, "none, but the run was stopped before its end")

    def _state(self, heads: Mapping[int, Head]) -> EncoderState:
        """In pictures."""
        names = {name for kind in SHARDS for name in self._kinds.get(kind, ())}
        outdated = self._kinds.get("outdated", set())
        spoilt = {k for k in self._numbers if shard_name(k) in names}
        bad = sum(len(self._store.span(k, self._source)) for k in spoilt)
        good = [h for k, h in heads.items() if k not in spoilt and shard_name(k) not in outdated]
        done = sum(head.count for head in good)
        held = sum(head.items for head in good) - done
        left = len(self._source) - done - held - bad
        return EncoderState(self._encoder, done, bad, held, unchecked=0, incomplete=left)
