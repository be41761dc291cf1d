"""Latents that latentkit encoded: their contract says how they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.evaluation.sets.identity import file_identity, listing_sha256
from latentkit.evaluation.sets.rows import RowSet, ordered
from latentkit.evaluation.sets.space import LATENTS, Decodable
from latentkit.sources.source import Stat
from latentkit.stores.arrays import read_npy
from latentkit.stores.contract_file import read_contract
from latentkit.stores.npy import array_path, arrays_below
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.shard_manifest import MANIFEST

CONTRACT = "contract.json"

_ROWS = 64


class ShardLatents(RowSet):
    """The latents of a folder of shards; of moments the mean.

    Args:
        path: the folder, or its ``manifest.json``.
        decodable: which latents are asked for.

    Attributes:
        contract: what the numbers mean.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: the manifest or a shard is missing, damaged or not complete.
    """

    def __init__(self, path: Path, decodable: Decodable) -> None:
        from latentkit.reading.shards import LatentShards

        self._manifest = path / MANIFEST if path.is_dir() else path
        self.name = self._manifest.parent.resolve().name
        self._shards = LatentShards(self._manifest, allow_random=True, flip=False, sample=False)
        self.contract = self._shards.contract
        self.latents = decodable.recorded(self.contract, str(self._manifest))
        self.keys, self._rows = ordered(self._shards.keys(), str(path))

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        for start in range(0, len(positions), _ROWS):
            latents, _ = self._shards.batch(self._rows[positions[start : start + _ROWS]])
            yield from latents.numpy()

    def identity(self) -> dict[str, Any]:
        """The manifest's sha256, which has every shard's."""
        digest = file_identity(self._manifest)["sha256"]
        return {"kind": "latents", "contract": self.contract.sha256, "manifest": digest}


class NpyLatents(RowSet):
    """The latents of an encoder's folder of ``store=npy``; of moments the mean.

    Left out is what the quarantine of the output holds back: a file of it was made from an older picture.

    Args:
        folder: holds ``contract.json``.
        decodable: which latents are asked for.

    Attributes:
        contract: what the numbers mean.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: the contract is damaged, or there are no latents.
    """

    def __init__(self, folder: Path, decodable: Decodable) -> None:
        self.name = folder.resolve().name
        self._folder = folder
        self.contract = read_contract(folder / CONTRACT)
        self.latents = decodable.recorded(self.contract, str(folder))
        self._declared = self.contract.outputs[LATENTS]
        held = Quarantine.read(folder.parent).held(self.contract.encoder)
        self._entries: dict[str, Stat] = {}
        for key, entry in arrays_below(folder):
            if key not in held:
                now = entry.stat()
                self._entries[key] = Stat(now.st_size, now.st_mtime_ns)
        if not self._entries:
            raise LatentkitError(f"{folder} has no latents in it: encode first")
        self.keys = sorted(self._entries)

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        moments = self.contract.stored == "moments"
        for position in positions.tolist():
            array = read_npy(array_path(self._folder, self.keys[position]), self._declared)
            yield array[: len(array) // 2] if moments else array

    def identity(self) -> dict[str, Any]:
        """The contract's hash, the folder with links resolved, and a hash over keys, sizes and mtimes."""
        return {
            "kind": "latents",
            "contract": self.contract.sha256,
            "place": str(self._folder.resolve()),
            "files": listing_sha256((key, self._entries[key]) for key in self.keys),
        }
