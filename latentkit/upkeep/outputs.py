"""What verifying does with each kind of store: look, mend, and look what is left."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console

from latentkit.errors import UsageError
from latentkit.sources.library import Library
from latentkit.sources.source import Source
from latentkit.stores import NpyStore, ShardStore, Store
from latentkit.upkeep.findings import AGAIN, ENCODE, FIX, KINDS, Finding
from latentkit.upkeep.mending import mend
from latentkit.upkeep.shard_folder import FULL, NAMES, QUICK
from latentkit.upkeep.shard_mending import mend_shards
from latentkit.upkeep.shard_verification import ShardVerification
from latentkit.upkeep.verification import Pictures, Verification, Verified

MODES = (FULL, QUICK)


class Output(Protocol):
    """An output that can be verified and mended."""

    def verify(self, console: Console) -> Verified:
        """Look at it; changes nothing."""
        ...

    def mend(self, found: Verified) -> int:
        """Set aside what is wrong; for the lock's holder. How much the next encode will redo."""
        ...

    def left(self, found: Verified, console: Console) -> list[Finding]:
        """What is wrong after mending, without reading everything again."""
        ...


def check_mode(mode: str) -> None:
    """Raise UsageError unless it is one of `MODES`."""
    if mode not in MODES:
        raise UsageError(f"mode={mode}: choose one of {', '.join(MODES)}")


def open_output(store: Store, source: Source, library: Library | None, mode: str, seed: int) -> Output:
    """The output of a collection.

    Args:
        library: the photo library that the collection is; None for any other.
        mode: ``full``, or ``quick``: of a .npy a picture names and sizes alone, of shards all headers and
            some shards whole.
        seed: of the choice of these shards.

    Raises:
        UsageError: a store that nothing is known of.
    """
    if store.per_picture:
        return _Arrays(store.npy(), source, library, mode)
    return _Shards(store.shards(), source, mode, seed)


class _Arrays:
    def __init__(self, store: NpyStore, source: Source, library: Library | None, mode: str) -> None:
        self._store, self._source, self._read = store, source, mode == FULL
        self._pictures = Pictures.of(source, library)

    def verify(self, console: Console) -> Verified:
        return Verification(self._store, self._pictures, read=self._read).run(console)

    def mend(self, found: Verified) -> int:
        return mend(self._store, self._source, found.findings)

    def left(self, found: Verified, console: Console) -> list[Finding]:
        return Verification(self._store, self._pictures, read=False).run(console).findings


class _Shards:
    def __init__(self, store: ShardStore, source: Source, mode: str, seed: int) -> None:
        self._store, self._source, self._mode, self._seed = store, source, mode, seed

    def verify(self, console: Console) -> Verified:
        return ShardVerification(self._store, self._source, mode=self._mode, seed=self._seed).run(console)

    def mend(self, found: Verified) -> int:
        return mend_shards(self._store, self._source, found.findings)

    def left(self, found: Verified, console: Console) -> list[Finding]:
        now = ShardVerification(self._store, self._source, mode=NAMES).run(console).findings
        others = [old for old in found.findings if KINDS[old.kind].remedy not in {FIX, AGAIN, ENCODE}]
        return others + [new for new in now if KINDS[new.kind].remedy in {FIX, AGAIN}]
