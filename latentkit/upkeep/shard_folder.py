"""Holding one encoder's shards against its contract, its sidecars, its manifest and the collection."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable
from latentkit.sources.source import Source
from latentkit.stores import Quarantine, ShardStore
from latentkit.stores.shard_manifest import ShardManifest
from latentkit.stores.sidecar import Head, read_entries, read_head, shard_name
from latentkit.upkeep.findings import SHARDS, Finding
from latentkit.upkeep.shard_inspection import Expected, Inspected, inspect_shard
from latentkit.upkeep.threads import in_threads
from latentkit.upkeep.verification import EncoderState

FULL, QUICK, NAMES = "full", "quick", "names"
"""How far to look: into every shard; into the first, the last and some by chance; at sizes and headers alone.

The last is for what was just mended: there, an output that is not complete is nothing wrong.
"""

SAMPLED = 4
"""Shards that `QUICK` reads besides the first and the last."""


class ShardFolder:
    """One encoder's shards.

    Attributes:
        findings: what is wrong, as far as `check` looked.
        read, bytes: shards that were read whole.
    """

    def __init__(self, store: ShardStore, encoder: str, contract: Contract, source: Source) -> None:
        self._store, self._encoder, self._contract, self._source = store, encoder, contract, source
        self._folder = store.manifest_path(encoder).parent
        self._held = Quarantine.read(store.root).held(encoder).keys()
        self._outdated: set[int] = set()
        self._per_class = np.zeros(len(source.classes), np.int64)
        self.findings: list[Finding] = []
        self.read = self.bytes = 0

    @classmethod
    def open(cls, store: ShardStore, encoder: str, source: Source) -> Self | Finding:
        """What is there, whatever the size of its shards; the finding when it has no readable contract.

        Raises:
            UsageError: it is of another dataset or split.
        """
        folder = store.manifest_path(encoder).parent
        try:
            contract = store.contract(encoder)
        except LatentkitError as error:
            return Finding("contract", printable(folder), str(error), encoder)
        if contract is None:
            return Finding("contract", printable(folder), "missing, beside ledgers", encoder)
        place = store.place(encoder)
        if type(place["shard_size"]) is not int or place["shard_size"] < 1:
            return Finding("contract", printable(folder), f"shard_size is {place['shard_size']}", encoder)
        for name in ("dataset", "split"):
            if place[name] != getattr(store, name):
                raise UsageError(
                    f"{folder} holds {name}={place[name]}, not {getattr(store, name)}: "
                    "give the dataset, split and output_dir of its run"
                )
        return cls(store.sized_as_there(encoder), encoder, contract, source)

    def check(self, mode: str, seed: int, console: Console) -> EncoderState:
        """Look as far as `mode` says."""
        heads = self._read_heads()
        files = [k for k, head in heads.items() if head.shard is not None]
        deep = set(files)
        if mode == QUICK and len(files) > 2:
            others = random.Random(seed).sample(files[1:-1], min(SAMPLED, len(files) - 2))
            deep = {files[0], files[-1], *others}
        elif mode == NAMES:
            deep = set()
        with ProgressReport(f"verify {self._encoder}", len(heads), console, "shards") as report:
            for (k, _), inspected in in_threads(
                lambda task: self._inspect(*task, deep=task[0] in deep), heads.items()
            ):
                self._take(k, inspected)
                report.advance()
        self._check_unlisted(heads)
        state = self._state(heads)
        self._check_manifest(state)
        if mode != NAMES:
            self._check_complete(state, everything=len(deep) == len(files))
        return state

    def _find(self, kind: str, path: Path, detail: str, shard: str | None = None) -> None:
        self.findings.append(Finding(kind, printable(path), detail, self._encoder, shard))

    def _find_shard(self, kind: str, k: int, detail: str) -> None:
        self._find(kind, self._folder / shard_name(k), detail, shard_name(k))

    def _read_heads(self) -> dict[int, Head]:
        """Number -> what its sidecar says, of the shards that the collection has."""
        heads: dict[int, Head] = {}
        for k in range(self._store.shard_count(self._source)):
            path = self._store.sidecar(self._encoder, k)
            head = read_head(path)
            if head is not None and head.contract == self._contract.sha256 and _fits(head, k):
                heads[k] = head
            elif path.exists():
                detail = "of another contract" if head and _fits(head, k) else "damaged"
                self._find("ledger", path, detail, shard_name(k))
        return heads

    def _inspect(self, k: int, head: Head, *, deep: bool) -> Inspected:
        """In a thread: the sidecar against the collection, the file against the sidecar."""
        items = self._store.span(k, self._source)
        if head.items != len(items):
            outdated = [("outdated", f"made of {head.items:,} pictures, the collection has {len(items):,}")]
        else:
            outdated = []
        keys = labels = None
        if deep or (head.shard is None and not outdated):
            entries = read_entries(self._store.sidecar(self._encoder, k))
            if entries is None or len(entries) != head.items:
                return Inspected([("ledger", "damaged")])
            keys = [key for key, made_from in entries if made_from is not None]
            if len(keys) != head.count:
                return Inspected([("ledger", f"lists {len(keys):,} pictures and says {head.count:,}")])
            outdated = outdated or self._compare(items, [key for key, _ in entries], keys)
            if self._source.classes and not outdated:
                by_key = {item.key: item.label for item in map(self._source.__getitem__, items)}
                labels = np.array([by_key[key] for key in keys], np.int64)
        if head.shard is None:
            return Inspected(outdated)
        expected = Expected(head, self._contract, bool(self._source.classes), keys, labels)
        inspected = inspect_shard(self._folder / head.shard, expected)
        return dataclasses.replace(inspected, problems=outdated + inspected.problems)

    def _compare(self, items: range, listed: list[str], present: list[str]) -> list[tuple[str, str]]:
        """A sidecar's pictures against the collection's and the quarantine's."""
        for index, key in zip(items, listed, strict=True):
            if self._source[index].key != key:
                return [("outdated", f"made with {key} where the collection has {self._source[index].key}")]
        lost = set(listed) - set(present) - self._held
        if lost:
            return [("outdated", f"{len(lost):,} are neither in it nor in quarantine, such as {min(lost)}")]
        return []

    def _take(self, k: int, inspected: Inspected) -> None:
        for kind, detail in inspected.problems:
            self._find_shard(kind, k, detail)
            if kind == "outdated":
                self._outdated.add(k)
        self.read += inspected.bytes > 0
        self.bytes += inspected.bytes
        if inspected.labels is not None:
            known = inspected.labels[(inspected.labels >= 0) & (inspected.labels < len(self._per_class))]
            self._per_class += np.bincount(known, minlength=len(self._per_class))

    def _check_unlisted(self, heads: Mapping[int, Head]) -> None:
        """Loaders take every ``*.safetensors`` of the folder for a shard."""
        listed = {head.shard for head in heads.values()}
        known = {found.key for found in self.findings if found.kind == "ledger"}
        for path in sorted(self._folder.glob("*.safetensors")):
            if path.name not in listed | known:
                self._find("unlisted", path, "no ledger lists it", path.name)

    def _check_manifest(self, state: EncoderState) -> None:
        path = self._store.manifest_path(self._encoder)
        try:
            manifest = ShardManifest.read(path)
        except UsageError:
            self._find("manifest", path, "missing")
            return
        except LatentkitError as error:
            self._find("manifest", path, str(error))
            return
        if any(found.kind in {"ledger", "unlisted"} for found in self.findings):
            return  # what it ought to say is not known; mending these makes it anew
        there = json.loads(path.read_bytes())
        ought = self._store.describe(self._encoder, self._contract, self._source, complete=True)
        # Equal hashes are equal contracts, though older ones leave implied values out.
        names = (there.keys() | ought.keys()) - {"complete", "versions", "contract"}
        if wrong := sorted(name for name in names if there.get(name) != ought.get(name)):
            self._find("manifest", path, f"not what the ledgers say: {', '.join(wrong)}")
        elif manifest.complete and state.incomplete and not self._outdated:
            self._find("manifest", path, f"says that it is complete, {state.incomplete:,} are not there")

    def _check_complete(self, state: EncoderState, *, everything: bool) -> None:
        path = self._store.manifest_path(self._encoder)
        if state.incomplete:
            self._find("incomplete", path, f"{state.incomplete:,} of {len(self._source):,}")
        elif not state.bad and not self.findings and not ShardManifest.read(path).complete:
            self._find("incomplete", path, "none, but the run was stopped before its end")
        if everything and not state.bad and not state.incomplete:
            for label in np.flatnonzero(self._per_class == 0).tolist():
                self._find("classes", path, f"{self._source.classes[label]} has no picture")

    def _state(self, heads: Mapping[int, Head]) -> EncoderState:
        """In pictures."""
        names = {found.key for found in self.findings if found.kind in SHARDS}
        shards = range(self._store.shard_count(self._source))
        spoilt = {k for k in shards if shard_name(k) in names}
        bad = sum(len(self._store.span(k, self._source)) for k in spoilt)
        good = [head for k, head in heads.items() if k not in spoilt | self._outdated]
        done = sum(head.count for head in good)
        held = sum(head.items for head in good) - done
        left = len(self._source) - done - held - bad
        return EncoderState(self._encoder, done, bad, held, unchecked=0, incomplete=left)


def _fits(head: Head, k: int) -> bool:
    """Whether it can be the sidecar of shard k."""
    return head.shard == shard_name(k) if head.count else head.shard is None
