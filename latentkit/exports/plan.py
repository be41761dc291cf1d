"""Which samples go into which tar, and what must be written for it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentkit.errors import UsageError
from latentkit.exports.manifest import TarManifest
from latentkit.exports.tar_file import bound
from latentkit.stores.samples import Sample, Samples


@dataclass(frozen=True, slots=True)
class PlannedTar:
    """A tar to be: its path under the folder, its samples in their order, `TarEntry.inputs`."""

    path: str
    bucket: str
    samples: Sequence[Sample]
    inputs: str


@dataclass(frozen=True)
class TarPlan:
    """What there is to do.

    Attributes:
        samples: the complete ones of all buckets, and what the other records lack.
        manifest: without the tars of ``todo``, their buckets not complete.
        todo: tars to write, in the order of their paths.
        stale: tars that no longer belong there.
        bytes: upper bound of what will be written.
    """

    samples: Samples
    manifest: TarManifest
    todo: list[PlannedTar]
    stale: list[Path]
    bytes: int


def divide(
    bucket: str, samples: Sequence[Sample], shard_size: int, seed: int | None, settings: Mapping[str, Any]
) -> list[PlannedTar]:
    """A bucket's tars.

    Args:
        samples: those of the bucket, sorted by key.
        shard_size: samples a tar.
        seed: of their permutation, by sha256 of ``<seed>/<key>``; None: they stay in order.
        settings: all else that changes the tars, as JSON values.
    """

    def place(sample: Sample) -> bytes:
        return hashlib.sha256(f"{seed}/{sample.key}".encode("utf-8", "surrogatepass")).digest()

    ordered = samples if seed is None else sorted(samples, key=place)
    start = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("ascii"))
    tars: list[PlannedTar] = []
    for k in range(0, len(ordered), shard_size):
        inputs = start.copy()
        for sample in ordered[k : k + shard_size]:
            inputs.update(sample.inputs)
        path = f"bucket_{bucket}/shard-{len(tars):06d}.tar"
        tars.append(PlannedTar(path, bucket, ordered[k : k + shard_size], inputs.hexdigest()))
    return tars


def keep_others(manifest: TarManifest, old: TarManifest, chosen: Sequence[str]) -> None:
    """Take over the entries of the buckets that were not chosen.

    Raises:
        UsageError: their tars mean something else.
    """
    kept = {bucket: entry for bucket, entry in old.buckets.items() if bucket not in chosen}
    if kept and (old.contracts != manifest.contracts or old.members != manifest.members):
        raise UsageError(
            f"the tars of {', '.join(sorted(kept))} hold other contracts or members than these would: "
            "leave bucket= out to make all of them again"
        )
    manifest.buckets |= kept
    manifest.shards |= {path: tar for path, tar in old.shards.items() if tar.bucket in kept}


def most_bytes(tar: PlannedTar, fields: int) -> int:
    """Upper bound of a tar's size."""
    return bound(len(tar.samples) * (fields + 1), sum(sample.bytes for sample in tar.samples))


def peak_bytes(folder: Path, todo: Sequence[PlannedTar], most: Sequence[int], stale: Sequence[Path]) -> int:
    """Upper bound of the room that is needed on the way.

    Stale tars go first; each new one lies beside the one that it replaces until it is whole.
    """
    peak, level = 0, -sum(size_of(path) for path in stale)
    for tar, size in zip(todo, most, strict=True):
        peak = max(peak, level + size)
        level += size - size_of(folder / tar.path)
    return peak


def size_of(path: Path) -> int:
    """A file's size in bytes; 0 when it is not there."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
