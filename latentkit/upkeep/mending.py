"""Mending what a verification found: the bad is set aside, and the next encode redoes just that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from latentkit.sources.source import Source
from latentkit.stores.ledger import done_ledger
from latentkit.stores.npy import NpyStore, array_path
from latentkit.stores.storage import move_many
from latentkit.stores.store import hidden_folder
from latentkit.upkeep.contracts import read_contracts
from latentkit.upkeep.findings import ARRAYS, Finding


def mend(store: NpyStore, source: Source, findings: Iterable[Finding]) -> int:
    """Take bad outputs out of the ledgers, set their files aside, and publish the records anew.

    Files go to ``.latentkit/set-aside/<folder>/<key>.npy`` under the root, over what was set aside before; a
    folder on another disk has its own. Bad lines go to ``<name>.bad``. The caller holds the `OutputLock`.

    Returns:
        How many outputs the next encode will redo.
    """
    root = Path(store.root)
    bad: dict[str, set[str]] = {}
    for found in findings:
        if found.kind in ARRAYS and found.encoder is not None and found.key is not None:
            bad.setdefault(found.encoder, set()).add(found.key)
    store.repair()
    for encoder, keys in bad.items():
        done_ledger(root, encoder).forget(keys)
    move_many(_moves(store, bad))
    store.publish_records(source)
    return sum(map(len, bad.values()))


def _moves(store: NpyStore, bad: dict[str, set[str]]) -> Iterator[tuple[Path, Path]]:
    root = Path(store.root)
    contracts, _ = read_contracts(store)
    for encoder, keys in bad.items():
        contract = contracts.get(encoder)
        folders = store.output_folders(encoder, contract).values() if contract else ()
        for folder in folders:
            aside = hidden_folder(folder, root) / "set-aside" / folder.relative_to(root)
            for key in sorted(keys):
                yield array_path(folder, key), array_path(aside, key)
