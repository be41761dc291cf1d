"""Holding a `ShardStore` against its contracts, sidecars, manifests and the collection."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.imagenet.official import OFFICIAL
from latentkit.sources import Captioned, ImageNetArchive
from latentkit.sources.files import printable
from latentkit.sources.source import Source
from latentkit.stores import ShardStore
from latentkit.stores.quarantine import bad_lines
from latentkit.stores.storage import find_temporaries
from latentkit.stores.store import LEDGERS
from latentkit.upkeep.findings import Finding
from latentkit.upkeep.shard_folder import FULL, ShardFolder
from latentkit.upkeep.verification import Verified


class ShardVerification:
    """One look at all encoders' shards; changes nothing. For an output that nobody writes meanwhile.

    Args:
        store: the outputs.
        source: the collection.
        mode: how far to look, as in `latentkit.upkeep.shard_folder`.
        seed: of the choice of the shards that are read, where only some are.
    """

    def __init__(self, store: ShardStore, source: Source, *, mode: str = FULL, seed: int = 0) -> None:
        self._store, self._source, self._mode, self._seed = store, source, mode, seed
        self._root = Path(store.root)

    def run(self, console: Console) -> Verified:
        """Look at everything.

        Raises:
            LatentkitError: there are no shards at all.
            UsageError: they are of another dataset or split.
        """
        encoders = self._store.encoders_begun()
        if not encoders:
            raise LatentkitError(f"{self._root} holds no latent shards: encode first, or set output_dir")
        findings = [*self._check_index(), *self._check_root(encoders)]
        states = []
        shards = size = 0
        for encoder in encoders:
            folder = ShardFolder.open(self._store, encoder, self._source)
            if isinstance(folder, Finding):
                findings.append(folder)
                continue
            states.append(folder.check(self._mode, self._seed, console))
            findings += folder.findings
            shards, size = shards + folder.read, size + folder.bytes
        order = sorted(findings, key=lambda found: (found.kind, found.path, found.detail))
        return Verified(order, states, len(self._source), None, shards, size, "shard")

    def _check_index(self) -> list[Finding]:
        """The index of an official archive against the known figures."""
        source = self._source.source if isinstance(self._source, Captioned) else self._source
        if not isinstance(source, ImageNetArchive):
            return []
        official = OFFICIAL[source.split]
        if source.archive.md5 != official.md5:
            return []
        return [
            Finding("index", printable(source.index), f"{there:,} {what}, the official archive has {known:,}")
            for what, there, known in (
                ("classes", len(source.classes), official.classes),
                ("pictures", len(source), official.pictures),
            )
            if there != known
        ]

    def _check_root(self, encoders: list[str]) -> list[Finding]:
        """What killed processes left, and the quarantine."""
        places = [(self._root, False), (self._root / LEDGERS, True)]
        folders = {self._store.manifest_path(encoder).parent for encoder in encoders}
        places += [(folder, True) for folder in sorted(folders - {self._root})]
        left = [path for folder, below in places for path in find_temporaries(folder, below=below)]
        found = [Finding("temporary", printable(path), "a killed process left it") for path in left]
        ledger = printable(self._root / "quarantine.jsonl")
        return found + [Finding("line", ledger, f"line {number} is bad") for number in bad_lines(self._root)]
