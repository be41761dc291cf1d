"""Mending what a verification of shards found: the next encode redoes the bad ones, and only these."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath

from latentkit.sources.source import Source
from latentkit.stores import ShardStore
from latentkit.stores.shard_manifest import reopen
from latentkit.stores.storage import move_many, publish_json, remove_many
from latentkit.stores.store import hidden_folder
from latentkit.upkeep.findings import SHARDS, Finding


def mend_shards(store: ShardStore, source: Source, findings: Iterable[Finding]) -> int:
    """Set bad shards aside and publish the manifests anew, not complete while something is to be redone.

    Shards go to ``.latentkit/set-aside/<folder>/`` under the root, over what was set aside before; a folder
    on another disk has its own. Safe to repeat after a kill. The caller holds the `OutputLock`.

    Returns:
        How many files were set aside, or were missing.
    """
    bad: dict[str, set[str]] = {}
    unfinished: set[str] = set()
    for found in findings:
        if found.encoder is None or found.kind == "contract":
            continue
        if found.kind in SHARDS and found.key is not None:
            bad.setdefault(found.encoder, set()).add(found.key)
        if found.kind == "manifest":
            bad.setdefault(found.encoder, set())
        if found.kind in {"outdated", "incomplete"}:
            unfinished.add(found.encoder)
    store.repair()
    for encoder, names in bad.items():
        _set_aside(
            store.sized_as_there(encoder),
            encoder,
            names,
            source,
            complete=not names and encoder not in unfinished,
        )
    return sum(map(len, bad.values()))


def _set_aside(store: ShardStore, encoder: str, names: Set[str], source: Source, *, complete: bool) -> None:
    """What mentions them first, then the files; the manifest last."""
    contract, manifest = store.contract(encoder), store.manifest_path(encoder)
    assert contract is not None, "a folder without a contract is not mended"
    folder, sidecars = manifest.parent, store.sidecar(encoder, 0).parent
    aside = hidden_folder(folder, Path(store.root)) / "set-aside" / folder.relative_to(store.root)
    reopen(manifest)
    remove_many(sidecars / f"{PurePosixPath(name).stem}.jsonl" for name in sorted(names))
    move_many((folder / name, aside / name) for name in sorted(names))
    publish_json(manifest, store.describe(encoder, contract, source, complete=complete))
