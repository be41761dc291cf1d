"""What every store's outputs can be asked for: keys, arrays, labels, facts and contract of one encoder.

`latentkit.stores.open.open_output` gives them. Reading changes nothing and loads no torch.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError
from latentkit.sources.source import Fingerprint, Stat
from latentkit.stores.ledger import read_done, read_facts
from latentkit.stores.shard_manifest import sidecars
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
        known = (path for path in above for name in ("done", "journal") if (path / LEDGERS / name).is_dir())
        return next(known, above[1])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    @cached_property
    def _facts(self) -> dict[str, dict[str, Any]]:
        return {key: facts for key, _, facts in read_facts(self.root, self.contract.encoder, folded=False)}


def read_source_fingerprints(root: Path, encoder: str) -> Iterator[tuple[str, Fingerprint]]:
    """Key and fingerprint of every picture of which it is recorded, in whichever store; changes nothing.

    Args:
        root: the output folder, whose ``.latentkit`` holds the ledgers; there may be none.
        encoder: its public name.
    """
    for sidecar in sidecars(root, encoder):
        yield from ((key, made_from) for key, made_from in sidecar.entries() or () if made_from is not None)
    yield from ((key, done.source) for key, done in read_done(root, encoder).items())


def listing_sha256(entries: Iterable[tuple[str, Stat | None]]) -> str:
    """sha256 over keys, sizes and mtimes, in the order given."""
    digest = hashlib.sha256()
    for key, stat in entries:
        known = f"{stat.size}\0{stat.mtime_ns}" if stat else ""
        digest.update(f"{key}\0{known}\n".encode())
    return digest.hexdigest()
