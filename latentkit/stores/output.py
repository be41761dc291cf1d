"""Reading outputs: keys, arrays, labels, facts and contract of one encoder, whichever store wrote them.

`open_output` is the one way to read what an encoding run left. It changes nothing and loads no torch.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.sources.source import Fingerprint, Stat
from latentkit.stores.arrays import read_npy
from latentkit.stores.contract_file import CONTRACT, read_contract
from latentkit.stores.ledger import Done, read_done, read_facts
from latentkit.stores.npy import array_path, arrays_below, folders_of, whole
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.records import RECORDS, numbered_records
from latentkit.stores.shard_manifest import MANIFEST
from latentkit.stores.sidecar import read_entries, sidecars
from latentkit.stores.store import LEDGERS


class Output(ABC):
    """One encoder's outputs.

    Attributes:
        folder: of its arrays.
        contract: what the numbers mean.
        classes, class_names: of the collection; a label is an index into them.
    """

    folder: Path
    contract: Contract
    classes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def keys(self) -> Sequence[str]:
        """The key of each row: of shards in the collection's order, of .npy files sorted."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray | None:
        """The class of each row, int64 [N]; None where the collection has no classes."""

    @abstractmethod
    def rows(self, name: str, places: Iterable[int]) -> list[np.ndarray]:
        """The arrays of some rows, as stored; of shards they are views of mapped files.

        Args:
            name: an output of the contract.
            places: row numbers, from 0 to below ``len``, in any order.

        Raises:
            LatentkitError: names the file that is missing or damaged.
        """

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """What tells these numbers from any others: the contract's hash, and what the files are known by."""

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, key: str) -> dict[str, np.ndarray]:
        """All arrays of one picture, by output name.

        Raises:
            LatentkitError: names the file that is missing or damaged, or the picture that is not there.
        """
        if key not in self._places:
            raise LatentkitError(f"{self.folder} has no {key!r}: encode it first")
        return {name: self.rows(name, [self._places[key]])[0] for name in self.contract.outputs}

    def facts(self, key: str) -> Mapping[str, Any]:
        """What is recorded of the encoder's input (size, bucket, tokens ...); empty where nothing is."""
        return self._facts.get(key, {})

    def fingerprints(self) -> Iterator[tuple[str, Fingerprint]]:
        """Key and fingerprint of each picture or caption that is recorded to have been encoded."""
        return read_source_fingerprints(self.root, self.contract.encoder)

    @cached_property
    def root(self) -> Path:
        """The output_dir of its run, which holds the ledgers; the parent folder where there are none."""
        above = [self.folder, *self.folder.absolute().parents][:4]
        ledgers = {path: path / LEDGERS for path in above}
        known = (
            path
            for path in above
            if (ledgers[path] / "done").is_dir() or (ledgers[path] / "journal").is_dir()
        )
        return next(known, above[1])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    @cached_property
    def _facts(self) -> dict[str, dict[str, Any]]:
        return {key: facts for key, _, facts in read_facts(self.root, self.contract.encoder, folded=False)}


class NpyOutput(Output):
    """An encoder's folder of ``store=npy``, and those of its further outputs.

    Quarantined pictures are left out: a file of one was made from an older picture.

    Raises:
        LatentkitError: the contract is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contract = read_contract(folder / CONTRACT)
        self._folders = folders_of(folder, self.contract)

    @cached_property
    def keys(self) -> Sequence[str]:
        return sorted(self._stats)

    @cached_property
    def labels(self) -> np.ndarray | None:
        found: dict[str, Any] = {}
        for name in RECORDS:
            for _, key, raw in numbered_records(self.root / name):
                if key is not None:
                    found[key] = json.loads(raw).get("label")
        labels = [found.get(key) for key in self.keys]
        known = labels and all(type(label) is int for label in labels)
        return np.array(labels, np.int64) if known else None

    def rows(self, name: str, places: Iterable[int]) -> list[np.ndarray]:
        folder, declared = self._folders[name], self.contract.outputs[name]
        return [read_npy(array_path(folder, self.keys[place]), declared) for place in places]

    def read(self, key: str) -> dict[str, np.ndarray]:
        """As `Output.read`, also of a quarantined picture; an attention mask is in the facts."""
        outputs = self.contract.outputs
        return {name: read_npy(array_path(path, key), outputs[name]) for name, path in self._folders.items()}

    def whole(self) -> dict[str, Done]:
        """What the ledger says of every picture whose files are there with the recorded size."""
        return whole(self.root, self.contract.encoder, self._folders.values())

    def identity(self) -> dict[str, str]:
        """The contract's hash, the folder with links resolved, and a hash over keys, sizes and mtimes."""
        return {
            "contract": self.contract.sha256,
            "place": str(self.folder.resolve()),
            "files": listing_sha256((key, self._stats[key]) for key in self.keys),
        }

    @cached_property
    def _stats(self) -> dict[str, Stat]:
        held = Quarantine.read(self.root).held(self.contract.encoder)
        found = ((key, entry.stat()) for key, entry in arrays_below(self.folder) if key not in held)
        return {key: Stat(now.st_size, now.st_mtime_ns) for key, now in found}


def read_source_fingerprints(root: Path, encoder: str) -> Iterator[tuple[str, Fingerprint]]:
    """Key and fingerprint of every picture of which it is recorded, in whichever store; changes nothing.

    Args:
        root: the output folder, whose ``.latentkit`` holds the ledgers; there may be none.
        encoder: its public name.
    """
    for path in sidecars(root, encoder):
        yield from ((key, made_from) for key, made_from in read_entries(path) or () if made_from is not None)
    yield from ((key, done.source) for key, done in read_done(root, encoder).items())


def open_output(path: str | Path, *, partial: bool = False) -> Output:
    """The outputs of one encoder.

    Args:
        path: an encoder's folder of ``store=npy`` or ``store=shards``, or the contract.json or manifest.json
            in it.
        partial: also shards of a run that was stopped.

    Raises:
        UsageError: there is neither.
        LatentkitError: what is there is damaged; of shards, not complete, or one is missing or has another
            size than the manifest says.
    """
    from latentkit.stores.shard_output import ShardOutput

    path = Path(path)
    folder = path.parent if path.name in {CONTRACT, MANIFEST} else path
    if path.name != MANIFEST and (folder / CONTRACT).exists():
        return NpyOutput(folder)
    if path.name != CONTRACT and (folder / MANIFEST).exists():
        return ShardOutput(folder / MANIFEST, partial=partial)
    raise UsageError(f"{path} holds no encoder's {CONTRACT} or {MANIFEST}: give the folder of one encoder")


def find_outputs(root: str | Path) -> dict[Path, Contract]:
    """Folder -> contract of each encoder's outputs right below a folder, sorted.

    Raises:
        LatentkitError: a contract or a manifest is damaged.
    """
    found = {path.parent: path for name in (MANIFEST, CONTRACT) for path in Path(root).glob(f"*/{name}")}
    return {folder: read_contract(path) for folder, path in sorted(found.items())}


def npy_outputs(root: str | Path, folders: Iterable[str] = ()) -> dict[str, NpyOutput]:
    """Encoder -> its .npy outputs, sorted by name: those right below a folder, and in ``folders`` under it.

    Raises:
        LatentkitError: a contract is damaged.
    """
    paths = {*Path(root).glob(f"*/{CONTRACT}"), *(Path(root, folder, CONTRACT) for folder in folders)}
    found = [NpyOutput(path.parent) for path in paths if path.exists()]
    return {found.contract.encoder: found for found in sorted(found, key=lambda each: each.contract.encoder)}


def listing_sha256(entries: Iterable[tuple[str, Stat | None]]) -> str:
    """sha256 over keys, sizes and mtimes, in the order given."""
    digest = hashlib.sha256()
    for key, stat in entries:
        known = f"{stat.size}\0{stat.mtime_ns}" if stat else ""
        digest.update(f"{key}\0{known}\n".encode())
    return digest.hexdigest()
