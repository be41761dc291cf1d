"""Reading shards: their files are mapped when a process first reads from them."""

import hashlib
import itertools
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.stores.arrays import match
from latentkit.stores.output import Output
from latentkit.stores.shard_file import read_header
from latentkit.stores.shard_manifest import MANIFEST, ShardEntry, ShardManifest

LABELS = "labels"


class ShardOutput(Output):
    """An encoder's folder of ``store=shards``, or its manifest. Travels to workers without its mappings.

    Raises:
        UsageError: there is no manifest.
        LatentkitError: it is damaged or not complete; a shard is missing or has another size.
    """

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self._manifest = path if path.suffix == ".json" else path / MANIFEST
        manifest = ShardManifest.read(self._manifest)
        self.folder, self.contract = self._manifest.parent, manifest.contract
        self.classes, self.class_names = manifest.classes, manifest.class_names
        if not manifest.complete and not partial:
            raise LatentkitError(f"{path} is not complete: go on with the run that encodes it")
        self._entries = manifest.shards
        self._starts = np.cumsum([0, *(entry.count for entry in self._entries)], dtype=np.int64)
        self._mapped: dict[int, dict[str, np.ndarray]] = {}
        self._known: dict[int, np.ndarray] = {}
        for entry in self._entries:
            self._check_size(entry)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}, "_known": {}}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def keys(self) -> Sequence[str]:
        return _Keys(self)

    @property
    def labels(self) -> np.ndarray | None:
        if not self.classes:
            return None
        return np.concatenate([self._map(number)[LABELS] for number in range(len(self._entries))])

    def rows(self, name: str, places: Iterable[int]) -> list[np.ndarray]:
        """As `Output.rows`; ``labels`` is a name too where there are classes."""
        numbers, rows = self.locate(np.fromiter(places, np.int64))
        return [
            (self._mapped.get(number) or self._map(number))[name][row]
            for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)
        ]

    def identity(self) -> dict[str, str]:
        """The contract's hash, and the manifest's, which has every shard's."""
        digest = hashlib.sha256(self._manifest.read_bytes()).hexdigest()
        return {"contract": self.contract.sha256, "manifest": digest}

    def locate(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each row, and its row there; int64 [B]."""
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        return numbers, places - self._starts[numbers]

    def shard_keys(self, number: int) -> list[str]:
        """The keys of a shard. Raises LatentkitError when it is damaged."""
        with self._reading(number) as file:
            keys = read_header(file).parse_keys()
            if len(keys) != self._entries[number].count:
                raise ValueError(f"it has {len(keys)} keys")
            return keys

    def key(self, place: int) -> str:
        """The key of a row."""
        (number,), (row,) = self.locate(np.array([place], np.int64))
        if number not in self._known:
            # UTF-8 of one length: a third of what so many texts take.
            self._known[number] = np.array([key.encode() for key in self.shard_keys(int(number))])
        return bytes(self._known[number][row]).decode()

    def all_keys(self) -> Iterator[str]:
        """The keys of all rows, shard by shard."""
        return itertools.chain.from_iterable(map(self.shard_keys, range(len(self._entries))))

    def _map(self, number: int) -> dict[str, np.ndarray]:
        """The tensors of a shard, mapped in this process."""
        with self._reading(number) as file:
            header = read_header(file)
            if header.contract != self.contract.sha256:
                raise ValueError("it is of another contract than its manifest")
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            declared = {**self.contract.outputs}
            if self.classes:
                declared[LABELS] = {"shape": [], "dtype": "int64"}
            arrays: dict[str, np.ndarray] = {}
            for name, output in declared.items():
                if name not in header.tensors:
                    raise ValueError(f"it has no {name}")
                tensor = header.tensors[name]
                shape = [self._entries[number].count, *output["shape"]]
                match(tensor.shape, tensor.dtype, {**output, "shape": shape})
                arrays[name] = np.ndarray(tensor.shape, tensor.dtype, memory, tensor.offset)
        self._mapped[number] = arrays
        return arrays

    def _check_size(self, entry: ShardEntry) -> None:
        path = self.folder / entry.path
        try:
            size = path.stat().st_size
        except OSError:
            raise LatentkitError(f"{path} is missing: verify fix=true and encode again") from None
        if size != entry.bytes:
            raise LatentkitError(
                f"{path} has {size} bytes, the manifest says {entry.bytes}: verify fix=true and encode again"
            )

    @contextmanager
    def _reading(self, number: int) -> Iterator[BinaryIO]:
        """A shard's file; what is wrong with it is told with its name and what to do."""
        entry = self._entries[number]
        path = self.folder / entry.path
        self._check_size(entry)
        try:
            with path.open("rb") as file:
                yield file
        except (OSError, ValueError) as error:
            raise LatentkitError(f"{path} is damaged: {error}: verify fix=true and encode again") from None


class _Keys(Sequence[str]):
    """The keys of all shards; those of one are read when one of them is asked for."""

    def __init__(self, output: ShardOutput) -> None:
        self._output = output

    def __len__(self) -> int:
        return len(self._output)

    def __iter__(self) -> Iterator[str]:
        return self._output.all_keys()

    def __getitem__(self, place: Any) -> Any:
        places = range(len(self))[place]
        return [self[each] for each in places] if isinstance(place, slice) else self._output.key(places)
