"""Outputs on disk: published files, ledgers, one `.npy` a picture, latent shards.

`latentkit.reading` has the readers for training. They can be imported from here too; only
that loads torch.
"""

from importlib import import_module
from typing import Any

from latentkit.stores.lock import OutputLock
from latentkit.stores.npy import NpyStore, PictureStore
from latentkit.stores.quarantine import Held, Quarantine
from latentkit.stores.shards import ShardStore
from latentkit.stores.store import Counts, Store

__all__ = ["Counts", "Held", "NpyStore", "OutputLock", "PictureStore", "Quarantine", "ShardStore", "Store"]


def __getattr__(name: str) -> Any:
    if name in {"BucketBatchSampler", "LatentFiles", "LatentShards", "LatentTars"}:
        return getattr(import_module("latentkit.reading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
