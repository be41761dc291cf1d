"""Outputs on disk: published files, ledgers, a `.npy` a picture, and latent shards. Imports no torch."""

from latentkit.stores.lock import OutputLock
from latentkit.stores.npy import NpyStore
from latentkit.stores.quarantine import Held, Quarantine
from latentkit.stores.shards import ShardStore
from latentkit.stores.store import Counts, Store

__all__ = ["Counts", "Held", "NpyStore", "OutputLock", "Quarantine", "ShardStore", "Store"]
