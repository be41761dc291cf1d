"""What verifies each kind of store; another store registers its own."""

from functools import singledispatch
from typing import Any

from latentkit.errors import UsageError
from latentkit.sources.library import Library
from latentkit.sources.source import Source
from latentkit.stores import NpyStore, ShardStore, Store
from latentkit.upkeep.npy_verification import NpyVerification
from latentkit.upkeep.shard_verification import ShardVerification
from latentkit.upkeep.verification import Verification


@singledispatch
def verification_of(
    store: Store, source: Source, library: Library | None, mode: str, seed: int
) -> Verification[Any]:
    """How a store is verified; arguments as for `Verification`.

    Raises:
        UsageError: a store of which nothing is known.
    """
    raise UsageError("verify works on store=npy and store=shards")


verification_of.register(NpyStore, NpyVerification)
verification_of.register(ShardStore, ShardVerification)
