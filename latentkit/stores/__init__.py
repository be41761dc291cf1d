"""Outputs on disk: published files, ledgers, a `.npy` a picture, latent shards, tars; and their readers.

Importing it loads no torch; the readers do, when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentkit.stores.lock import OutputLock
from latentkit.stores.npy import NpyStore, PictureStore
from latentkit.stores.quarantine import Held, Quarantine
from latentkit.stores.shards import ShardStore
from latentkit.stores.store import Counts, Store

if TYPE_CHECKING:
    from latentkit.reading.files import BucketBatchSampler, LatentFiles
    from latentkit.reading.shards import LatentShards
    from latentkit.reading.tars import LatentTars

__all__ = [
    "BucketBatchSampler",
    "Counts",
    "Held",
    "LatentFiles",
    "LatentShards",
    "LatentTars",
    "NpyStore",
    "OutputLock",
    "PictureStore",
    "Quarantine",
    "ShardStore",
    "Store",
]

_READERS = {
    "BucketBatchSampler": "latentkit.reading.files",
    "LatentFiles": "latentkit.reading.files",
    "LatentShards": "latentkit.reading.shards",
    "LatentTars": "latentkit.reading.tars",
}


def __getattr__(name: str) -> Any:
    if name in _READERS:
        return getattr(import_module(_READERS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
