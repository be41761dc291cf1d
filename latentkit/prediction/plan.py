"""What is left to do, decided before a network is loaded: plan = items - done."""

import hashlib
import math
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latentkit.encoders.contract import Contract, resolve_shape
from latentkit.encoders.encoder import Encoder
from latentkit.errors import LatentkitError
from latentkit.prediction.results import Encoded, Failure
from latentkit.runtime.readable import readable_bytes
from latentkit.sources.source import Fingerprint, Source, SourceError

Unchanged = Callable[[int, Fingerprint], bool]
"""(index, what its output was made from) -> whether the picture or caption is still that."""

IsHeld = Callable[[int], bool]
"""Index -> whether the picture is quarantined and not to be tried again."""


@dataclass(frozen=True)
class Unit:
    """A piece of work.

    Attributes:
        id: its number; units are worked off in this order.
        indices: int64 source indices still to encode, ascending; none where only a shard's ledger is to be
            written.
        atomic: one process encodes it whole (a shard); batches never cross units.
    """

    id: int
    indices: np.ndarray
    atomic: bool


class Outputs(Protocol):
    """What prediction asks of a store."""

    @abstractmethod
    def missing(self, encoder: str, source: Source, unchanged: Unchanged, held: IsHeld) -> list[Unit]:
        """What is still to be encoded. Changes nothing, and works with nothing on the disk.

        Args:
            encoder: its name.
            source: the collection.
            unchanged, held: tell which outputs and which failures are still of the collection as it is now.

        Returns:
            Units in source order. Output under another contract counts as there.
        """

    def begin(self, encoder: str, units: Sequence[Unit], source: Source) -> None:
        """Hear what this process will write.

        Args:
            encoder: one of those of the plan.
            units: this process's share of the plan.
            source: the collection; gives keys and labels.
        """

    @abstractmethod
    def write(self, *batches: Encoded) -> int:
        """Take batches. Returns the bytes of their arrays: on the disk when this returns, or with the shard.

        Raises:
            LatentkitError: one line: the disk is full, ... What was published before stays.
        """

    def fail(self, failure: Failure) -> None:
        """Quarantine a picture; on the disk when this returns."""


@dataclass(frozen=True)
class EncoderPlan:
    """What one encoder has to do.

    Attributes:
        units: the work, without pictures that are done, held or have no caption.
        quarantined: keys of the pictures that are held.
        uncaptioned: keys of those that it cannot read, for want of a caption.
        todo, done: pictures; with those of the two sets they sum to the source's length.
        bytes: upper bound of what will be written.
    """

    encoder: str
    units: list[Unit]
    quarantined: Set[str]
    uncaptioned: Set[str]
    todo: int
    done: int
    bytes: int

    def counts(self) -> dict[str, Any]:
        """JSON values, named as in summary.json."""
        return {
            "encoder": self.encoder,
            "todo": self.todo,
            "skipped": self.done,
            "quarantined": len(self.quarantined),
            "captionless": len(self.uncaptioned),
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Plan:
    """The plans of all encoders of a run, in the encoders' order."""

    encoders: list[EncoderPlan]

    @property
    def todo(self) -> int:
        """Pictures to encode, summed over encoders."""
        return sum(plan.todo for plan in self.encoders)

    @property
    def bytes(self) -> int:
        return sum(plan.bytes for plan in self.encoders)

    def digest(self) -> str:
        """Equal on all processes of a run, or they would not divide the same work."""
        sha = hashlib.sha256()
        for plan in self.encoders:
            sha.update(plan.encoder.encode())
            for unit in plan.units:
                sha.update(unit.indices.tobytes())
        return sha.hexdigest()


def make_plan(
    source: Source,
    encoders: Sequence[Encoder],
    contracts: Mapping[str, Contract],
    outputs: Outputs,
    quarantined: Mapping[str, Mapping[str, Fingerprint | None]],
    *,
    overwrite: bool = False,
) -> Plan:
    """Hold the source against what is published. Reads only.

    A picture is done when its output is published and its source unchanged: equal size and mtime, or else
    equal sha256; for text the caption's sha256. A quarantined picture is held until its bytes change.

    Args:
        contracts: encoder -> what its numbers will mean.
        outputs: what is published.
        quarantined: encoder -> key -> the bytes that failed, None where they could not be read. Leave out
            what is to be tried again.
        overwrite: take nothing as done.
    """
    compare = Comparison(source)
    plans = []
    for encoder in encoders:
        unchanged = compare.caption if encoder.geometry is None else compare.picture
        held = _Held(source, encoder.geometry is None, quarantined.get(encoder.name, {}), unchanged)
        is_done = (lambda index, before: False) if overwrite else unchanged
        units = outputs.missing(encoder.name, source, is_done, held)
        todo = sum(len(unit.indices) for unit in units)
        done = len(source) - todo - len(held.quarantined) - len(held.uncaptioned)
        size = todo * bytes_per_item(encoder, contracts[encoder.name])
        plans.append(EncoderPlan(encoder.name, units, held.quarantined, held.uncaptioned, todo, done, size))
    return Plan(plans)


@dataclass
class _Held:
    """Whether an encoder leaves a picture out: quarantined with these very bytes, or no caption to read."""

    source: Source
    reads_caption: bool
    ledger: Mapping[str, Fingerprint | None]
    unchanged: Unchanged
    quarantined: set[str] = field(default_factory=set)
    uncaptioned: set[str] = field(default_factory=set)

    def __call__(self, index: int) -> bool:
        if not (self.ledger or self.reads_caption):
            return False
        item = self.source[index]
        if self.reads_caption and item.caption is None:
            self.uncaptioned.add(item.key)
            return True
        if item.key in self.ledger and still_fails(self.source, index, self.ledger[item.key], self.unchanged):
            self.quarantined.add(item.key)
            return True
        return False


def still_fails(source: Source, index: int, failed: Fingerprint | None, unchanged: Unchanged) -> bool:
    """Whether a picture is what it was when it failed; `failed` is None when it could not be read."""
    return source.stat(index) is None if failed is None else unchanged(index, failed)


class Comparison:
    """Whether a picture is still what an output was made from; every picture is read at most once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hashed: dict[int, str | None] = {}

    def picture(self, index: int, before: Fingerprint) -> bool:
        """Equal size and mtime, or else equal sha256."""
        now, then = self._source.stat(index), before.stat
        if now and then and (now == then or now.size != then.size):
            return now == then
        if index not in self._hashed:
            try:
                self._hashed[index] = hashlib.sha256(self._source.read(index)[0]).hexdigest()
            except SourceError:
                self._hashed[index] = None
        return self._hashed[index] == before.sha256

    def caption(self, index: int, before: Fingerprint) -> bool:
        caption = self._source[index].caption
        return caption is not None and caption_fingerprint(caption) == before


def caption_fingerprint(caption: str) -> Fingerprint:
    """sha256 of the caption's UTF-8 bytes."""
    return Fingerprint(hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest())


def bytes_per_item(encoder: Encoder, contract: Contract) -> int:
    """Upper bound of a picture's stored bytes, from the contract's shapes; 256 for headers and records."""
    height, width = (encoder.geometry.largest() if encoder.geometry else None) or (1024, 1024)
    total = 256
    for output in contract.outputs.values():
        elements = math.prod(resolve_shape(output["shape"], height, width))
        total += elements * np.dtype(output["dtype"]).itemsize
    return total


def check_room(root: Path, needed: int, key: str = "output_dir") -> None:
    """Raise LatentkitError when the disk that holds `root` has fewer than `needed` bytes free.

    `key` is how a user names the folder.
    """
    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LatentkitError(
            f"no room in {root}: {readable_bytes(needed)} to write, {readable_bytes(free)} free; "
            f"free some, or give another {key}"
        )
