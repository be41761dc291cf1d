"""Holding latent shards against contracts, sidecars, manifests and the collection."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.progress import ProgressReport
from latentkit.stores.arrays import count_non_finite, match
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.shard_file import Header, read_header
from latentkit.stores.shard_manifest import Head, ShardManifest, reopen, shard_name
from latentkit.stores.shard_output import LABELS
from latentkit.stores.shards import ShardStore
from latentkit.stores.storage import move_many, publish_json, remove_many
from latentkit.upkeep.verification import COSTLY, FULL, NAMES, QUICK, EncoderState, Verification, in_threads

SAMPLED = 4
"""Shards that `QUICK` reads besides the first and the last."""

_CHUNK = 1 << 22


_Read = tuple[int, np.ndarray | None]
"""Bytes of a shard that were read, and its labels, int64 [N]."""

_NOTHING: _Read = (0, None)


class ShardVerification(Verification[ShardStore]):
    """What is not encoded yet is wrong: shards are of a whole collection."""

    things = "shard"

    def _require(self) -> None:
        if not self.store.encoders_begun():
            raise LatentkitError(f"{self.root} holds no latent shards: encode first, or set output_dir")

    def _check(self, console: Console) -> list[EncoderState]:
        contracts = [(name, self._read_contract(name)) for name in self.store.encoders_begun()]
        return [_Shards(self, name, contract).check(console) for name, contract in contracts if contract]

    def _read_contract(self, encoder: str) -> Contract | None:
        """What the shards' numbers mean; None, and a finding, where that cannot be read."""
        folder = self.store.folder(encoder)
        try:
            contract = self.store.contract(encoder)
            if contract is None:
                raise LatentkitError("missing, beside ledgers")
            place = self.store.place(encoder)
            if type(size := place["shard_size"]) is not int or size < 1:
                raise LatentkitError(f"shard_size is {size}")
        except LatentkitError as error:
            self.find("contract", folder, str(error), encoder)
            return None
        for name in ("dataset", "split"):
            if place[name] != (asked := getattr(self.store, name)):
                raise UsageError(
                    f"{folder} holds {name}={place[name]}, not {asked}: "
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
            manifest, sidecars = store.manifest_path(encoder), store.sidecar(encoder, 0).path.parent
            folder = store.folder(encoder)
            aside = self.aside(folder)
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
        self._folder = self._store.folder(encoder)
        self._numbers = range(self._store.shard_count(look.source))
        self._held = Quarantine.read(look.root).held(encoder).keys()
        self._outputs: dict[str, Any] = dict(contract.outputs)
        if look.source.classes:
            self._outputs[LABELS] = {"shape": [], "dtype": "int64"}

    def check(self, console: Console) -> EncoderState:
        mode, heads = self._look.mode, self._read_heads()
        files = [k for k, head in heads.items() if head.shard is not None]
        some = random.Random(self._look.seed).sample(files[1:-1], min(SAMPLED, len(files[1:-1])))
        deep = {FULL: set(files), QUICK: {*files[:1], *some, *files[-1:]}, NAMES: set[int]()}[mode]
        present: set[int] = set()
        with ProgressReport(f"verify {self._encoder}", len(heads), console, "shards") as report:
            tasks = [(k, head, k in deep) for k, head in heads.items()]
            for _, (size, labels) in in_threads(lambda task: self._inspect(*task), tasks):
                self._look.arrays += size > 0
                self._look.bytes += size
                present.update(() if labels is None else np.unique(labels).tolist())
                report.advance()
        listed = {head.shard for head in heads.values()} | self._found("ledger")
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

    def _find_in(self, k: int, kind: str, detail: str) -> _Read:
        """Something is wrong with a shard's file, of which nothing more is read then."""
        self._find(kind, self._folder / shard_name(k), detail, shard_name(k))
        return _NOTHING

    def _found(self, *kinds: str) -> set[str | None]:
        """The shards of this encoder's findings, of some kinds or of all."""
        mine = (found for found in self._look.findings if found.encoder == self._encoder)
        return {found.key for found in mine if not kinds or found.kind in kinds}

    def _read_heads(self) -> dict[int, Head]:
        """Number -> what its sidecar says, of the shards that the collection has."""
        heads: dict[int, Head] = {}
        for k in self._numbers:
            sidecar = self._store.sidecar(self._encoder, k)
            head = sidecar.head()
            fits = head is not None and head.shard == (shard_name(k) if head.count else None)
            if head is not None and fits and head.contract == self._contract.sha256:
                heads[k] = head
            elif sidecar.path.exists():
                self._find(
                    "ledger", sidecar.path, "of another contract" if fits else "damaged", shard_name(k)
                )
        return heads

    def _inspect(self, k: int, head: Head, deep: bool) -> _Read:
        """In a thread: the sidecar against the collection, the file against the sidecar."""
        items = self._store.span(k, self._source)
        outdated = None
        if head.items != len(items):
            outdated = f"made of {head.items:,} pictures, the collection has {len(items):,}"
        keys = labels = None
        if deep or (head.shard is None and outdated is None):
            entries = self._store.sidecar(self._encoder, k).entries()
            if entries is None or len(entries) != head.items:
                return self._find_in(k, "ledger", "damaged")
            keys = [key for key, made_from in entries if made_from is not None]
            if len(keys) != head.count:
                return self._find_in(k, "ledger", f"lists {len(keys):,} pictures and says {head.count:,}")
            outdated = outdated or self._compare(items, [key for key, _ in entries], keys)
            if self._source.classes and outdated is None:
                by_key = {item.key: item.label for item in map(self._source.__getitem__, items)}
                labels = np.array([by_key[key] for key in keys], np.int64)
        if outdated:
            self._find_in(k, "outdated", outdated)
        return _NOTHING if head.shard is None else self._inspect_file(k, head, keys, labels)

    def _inspect_file(self, k: int, head: Head, keys: list[str] | None, labels: np.ndarray | None) -> _Read:
        """Reads every byte once, 4 MiB at a time; without the keys of its rows, the header alone."""
        path = self._folder / shard_name(k)
        try:
            size = path.stat().st_size  # before it is opened, which of a pipe would wait for a writer
            if size != head.bytes:
                return self._find_in(k, "size", f"it has {size} bytes, its ledger says {head.bytes}")
            with path.open("rb") as file:
                header = read_header(file)
                there = header.parse_keys()
                if problem := self._check_header(header, len(there), head):
                    return self._find_in(k, *problem)
                if keys is None:
                    return _NOTHING
                sha256, non_finite, found = _read(file, header)
        except FileNotFoundError:
            return self._find_in(k, "missing", "its ledger lists it")
        except (OSError, ValueError) as error:
            return self._find_in(k, "unreadable", getattr(error, "strerror", None) or str(error))
        for name, count in non_finite.items():
            self._find_in(k, "non-finite", f"{count:,} numbers of {name}")
        if wrong_rows := [row for row, key in enumerate(there) if key != keys[row]]:
            row = wrong_rows[0]
            self._find_in(k, "keys", f"row {row:,} is {there[row]}, its ledger says {keys[row]}")
        if sha256 != head.sha256:
            self._find_in(k, "changed", "its sha256 is not its ledger's")
        if found is not None and labels is not None and (wrong := found != labels).any():
            row = int(np.argmax(wrong))
            detail = f"{int(wrong.sum()):,} are wrong: {keys[row]} has {found[row]}, not {labels[row]}"
            self._find_in(k, "labels", detail)
        return head.bytes, found

    def _check_header(self, header: Header, keys: int, head: Head) -> tuple[str, str] | None:
        """Names, shapes and types; nothing of the tensors is read."""
        if header.contract != self._contract.sha256:
            return "changed", f"it is of contract {header.contract[:12]}, not {self._contract.sha256[:12]}"
        if header.tensors.keys() != self._outputs.keys():
            there, ought = ", ".join(sorted(header.tensors)), ", ".join(sorted(self._outputs))
            return "shape", f"it holds {there}, not {ought}"
        for name, tensor in header.tensors.items():
            declared = {**self._outputs[name], "shape": [head.count, *self._outputs[name]["shape"]]}
            try:
                match(tensor.shape, tensor.dtype, declared)
            except ValueError as error:
                return "shape", f"{name}: {error}"
        if keys != head.count:
            return "keys", f"it has {keys:,} keys, its ledger lists {head.count:,}"
        return None

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
        if manifest and not self._found("ledger", "unlisted"):  # else the ledgers are wrong first
            there = json.loads(self._manifest.read_bytes())
            ought = self._store.describe(self._encoder, self._contract, self._source, complete=True)
            # Equal hashes are equal contracts, though older ones leave implied values out.
            names = (there.keys() | ought.keys()) - {"complete", "versions", "contract"}
            if wrong := sorted(name for name in names if there.get(name) != ought.get(name)):
                detail = f"not what the ledgers say: {', '.join(wrong)}"
            elif manifest.complete and state.incomplete and not self._found("outdated"):
                detail = f"says that it is complete, {state.incomplete:,} are not there"
        if detail:
            self._find("manifest", self._manifest, detail)
        if self._look.mode == NAMES:
            return
        if state.incomplete:
            self._find("incomplete", self._manifest, f"{state.incomplete:,} of {len(self._source):,}")
        elif manifest and not manifest.complete and not self._found():
            self._find("incomplete", self._manifest, "none, but the run was stopped before its end")

    def _state(self, heads: Mapping[int, Head]) -> EncoderState:
        """In pictures."""
        names, outdated = self._found(*COSTLY), self._found("outdated")
        spoilt = {k for k in self._numbers if shard_name(k) in names}
        bad = sum(len(self._store.span(k, self._source)) for k in spoilt)
        good = [h for k, h in heads.items() if k not in spoilt and shard_name(k) not in outdated]
        done = sum(head.count for head in good)
        held = sum(head.items for head in good) - done
        left = len(self._source) - done - held - bad
        return EncoderState(self._encoder, done, bad, held, unchecked=0, incomplete=left)


def _read(file: BinaryIO, header: Header) -> tuple[str, dict[str, int], np.ndarray | None]:
    """sha256; how many numbers are not finite, of the tensors that have such; the labels."""
    sha256, content, bad = hashlib.sha256(header.raw), bytearray(), Counter[str]()
    for name, tensor in header.tensors.items():
        for start in range(0, tensor.nbytes, _CHUNK):
            chunk = file.read(length := min(_CHUNK, tensor.nbytes - start))
            if len(chunk) < length:
                raise OSError("it became shorter while it was read")
            sha256.update(chunk)
            if name == LABELS:
                content += chunk
            elif tensor.dtype.kind == "f":
                bad[name] += count_non_finite(np.frombuffer(chunk, tensor.dtype))
    labels = np.frombuffer(content, np.int64) if LABELS in header.tensors else None
    return sha256.hexdigest(), dict(+bad), labels
