"""A ``.npy`` for each picture and output, and a record for each picture.

``<root>/<folder>/<key>.npy`` is an encoder's first output, ``<root>/<folder>_<output>/<key>.npy`` each
further one; an ``attention_mask`` lies in the record only. ``<folder>/contract.json`` says what the numbers
mean.
"""

import contextlib
import json
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError, UsageError
from latentkit.prediction.plan import IsHeld, Unchanged, Unit
from latentkit.prediction.results import Encoded
from latentkit.sources.source import Source, Stat
from latentkit.stores.arrays import match, npy_publication, read_npy
from latentkit.stores.contract_file import CONTRACT, read_contract
from latentkit.stores.ledger import Done, done_ledger, done_line, encoders_begun, encoders_done, read_done
from latentkit.stores.output import Output, listing_sha256
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.records import RECORDS, numbered_records, publish_records
from latentkit.stores.shard_manifest import MANIFEST
from latentkit.stores.storage import Publication, publish_many
from latentkit.stores.store import LEDGERS, Counts, Store

IN_RECORD = "attention_mask"


@dataclass(kw_only=True)
class PictureStore(Store):
    """Files of its own for each picture; any shape, aspect buckets included.

    A picture is done when the ledger says so, its files are there with the recorded size, and what it was
    made from is unchanged. None is under a contract that does not say what made the arrays. A format is a
    subclass that says what its files are called, and makes them.

    Attributes:
        records: the records' file name under the root; see `latentkit.stores.records`.
        record_fields: field of a record -> the encoder whose fact is copied into it.
    """

    per_picture = True
    foreign = MANIFEST
    suffix: ClassVar[str]
    """With which each file's name ends, after the key."""

    records: str = "records.jsonl"
    record_fields: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def files(
        self, encoder: str, key: str, arrays: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[Publication, int]]:
        """How to publish each file of a picture, in the folders of `output_folders`, and its size in bytes.

        Args:
            encoder: one of those that were opened.
            key: the picture's; `keyed_path` makes a path of it.
            arrays: output name -> array, of shape and type as the contract says.
        """

    def missing(self, encoder: str, source: Source, unchanged: Unchanged, held: IsHeld) -> list[Unit]:
        contract = self._readable(encoder)
        done = self.whole(encoder, contract) if contract and contract.recorded else {}

        def is_done(index: int, key: str) -> bool:
            return key in done and unchanged(index, done[key].source)

        left = [i for i, key in enumerate(source.keys()) if not is_done(i, key) and not held(i)]
        return [Unit(0, np.array(left, np.int64), False)] if left else []

    def write(self, *batches: Encoded) -> int:
        """Publish the files of all batches together, and then a segment of each one's ledger.

        Raises:
            LatentkitError: one line: the disk is full, ... What was published before stays.
        """
        files, segments = list[Publication](), list[Publication]()
        done: dict[str, dict[str, bytes]] = {}  # encoder -> key -> line
        total = 0
        for encoded in batches:
            name, declared = encoded.encoder, self._contracts[encoded.encoder].outputs
            for output, array in encoded.arrays.items():
                match(array.shape[1:], array.dtype, declared[output])
            for row, key in enumerate(encoded.keys):
                arrays = {output: array[row] for output, array in encoded.arrays.items()}
                made = list(self.files(name, key, arrays))
                files += [publication for publication, _ in made]
                size = sum(nbytes for _, nbytes in made)
                line = done_line(key, encoded.sources[row], size, encoded.facts[row])
                done.setdefault(name, {})[key] = line
                total += size
        for name, lines in done.items():
            self._release(name, list(lines))
            segments.append(done_ledger(Path(self.root), name).segment(lines.values()))
        publish_many(files, then=segments)
        return total

    def finish(self, source: Source, *, complete: bool) -> None:
        """Fold the ledgers, then publish the records of all that is done, also of a run that was stopped."""
        self._fold()
        self.publish_records(source)

    def publish_records(self, source: Source) -> None:
        """Publish the records of what the folded ledgers list; none where nothing was ever done."""
        root = Path(self.root)
        if encoders_done(root):
            publish_records(root / self.records, root, source, self.record_fields)

    def counts(self, encoder: str) -> Counts:
        done = read_done(Path(self.root), encoder)
        return Counts(len(done), sum(entry.bytes for entry in done.values()))

    def whole(self, encoder: str, contract: Contract) -> dict[str, Done]:
        """What the ledger says of every picture whose files are there with the recorded size."""
        folders = self.output_folders(encoder, contract).values()
        return whole_pictures(Path(self.root), encoder, folders, self.suffix)

    def array_folders(self) -> list[Path]:
        root = Path(self.root)
        folders = {self.folder(encoder) for encoder in {*self.folders, *encoders_begun(root)}}
        folders |= {path.parent for path in root.glob(f"*/{CONTRACT}")}
        for folder in list(folders):
            with contextlib.suppress(LatentkitError):
                folders.update(folders_of(folder, read_contract(folder / CONTRACT)).values())
        for encoder, contract in self._contracts.items():
            folders.update(self.output_folders(encoder, contract).values())
        return sorted(folder for folder in folders if folder.is_dir() and folder.is_relative_to(root))

    def check_layout(self, contracts: Mapping[str, Contract]) -> None:
        for encoder in contracts:
            if self.folder(encoder) == Path(self.root):
                raise UsageError(f"store.folders.{encoder}=.: only shards may lie in {self.root} itself")
        super().check_layout(contracts)

    def contract_files(self, encoder: str) -> list[Path]:
        return [self.folder(encoder) / CONTRACT]

    def ledgers(self, encoder: str) -> list[Path]:
        return [done_ledger(Path(self.root), encoder).path]

    def arrays(self, folder: Path) -> Iterator[Path]:
        return (Path(entry.path) for _, entry in arrays_below(folder, self.suffix))


@dataclass(kw_only=True)
class NpyStore(PictureStore):
    """One ``.npy`` for each picture and output."""

    suffix = ".npy"

    def output_folders(self, encoder: str, contract: Contract) -> dict[str, Path]:
        """Output name -> folder, for the outputs that have files."""
        return folders_of(self.folder(encoder), contract)

    def files(
        self, encoder: str, key: str, arrays: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[Publication, int]]:
        for output, folder in self.output_folders(encoder, self._contracts[encoder]).items():
            yield npy_publication(array_path(folder, key), arrays[output])


def npy_store(store: Store) -> NpyStore:
    """The store, for what works on a .npy a picture. Raises UsageError where it is of another kind."""
    if not isinstance(store, NpyStore):
        raise UsageError("this works on a .npy a picture: give store=npy, or the dataset that has it")
    return store


class NpyOutput(Output):
    """An encoder's folder of ``store=npy``, and those of its further outputs.

    Attributes:
        folders: output name -> folder.

    Quarantined pictures are left out: a file of one was made from an older picture.

    Raises:
        LatentkitError: the contract is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contract = read_contract(folder / CONTRACT)
        self.folders = folders_of(folder, self.contract)

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
        folder, declared = self.folders[name], self.contract.outputs[name]
        return [read_npy(array_path(folder, self.keys[place]), declared) for place in places]

    def read(self, key: str) -> dict[str, np.ndarray]:
        """As `Output.read`, also of a quarantined picture; an attention mask is in the facts."""
        outputs = self.contract.outputs
        return {name: read_npy(array_path(path, key), outputs[name]) for name, path in self.folders.items()}

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


def whole_pictures(
    root: Path, encoder: str, folders: Iterable[Path], suffix: str = ".npy"
) -> dict[str, Done]:
    """What the ledger says of every picture whose files are there with the recorded size."""
    sizes: Counter[str] = Counter()
    for folder in folders:
        for key, entry in arrays_below(folder, suffix):
            sizes[key] += entry.stat(follow_symlinks=False).st_size
    return {key: entry for key, entry in read_done(root, encoder).items() if sizes.get(key) == entry.bytes}


def folders_of(folder: Path, contract: Contract) -> dict[str, Path]:
    """Output name -> folder, for the outputs that have files, of an encoder whose folder is given."""
    first, *further = [name for name in contract.outputs if name != IN_RECORD]
    return {first: folder} | {name: folder.with_name(f"{folder.name}_{name}") for name in further}


def array_path(folder: Path, key: str) -> Path:
    """Where the array of a key lies. Raises LatentkitError as `keyed_path`."""
    return keyed_path(folder, key, ".npy")


def keyed_path(folder: Path, key: str, suffix: str) -> Path:
    """Where the file of a key lies. Raises LatentkitError for a key that leads out of the folder."""
    if {"", ".."} & {*key.split("/")} or "\0" in key:
        raise LatentkitError(f"the key {key!r} would lie outside of {folder}")
    return folder / f"{key}{suffix}"


def arrays_below(
    folder: Path, suffix: str = ".npy", prefix: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(key, entry) of every array below a folder; links are not followed, ours is not entered."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != LEDGERS:
                    yield from arrays_below(Path(entry.path), suffix, f"{prefix}{entry.name}/")
            elif entry.name.endswith(suffix):
                yield f"{prefix}{entry.name.removesuffix(suffix)}", entry
