"""A collection of 60 pictures, and a whole run over it; as a script, a run that kills itself on the way.

python store_run.py ROOT npy|shards N: SIGKILL instead of the Nth fsync, rename or removal (0: never; print
the number of such calls).
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.prediction.plan import Unit
from latentkit.prediction.results import Encoded, Failure
from latentkit.sources.source import Fingerprint, Item, Source, SourceError, Stat
from latentkit.stores import NpyStore, OutputLock, Quarantine, ShardStore, Store
from latentkit.stores.storage import LocalStorage, using

BATCH = 8
COPIES = {"t5_attention_mask": "text", "aspect_bucket": "vae"}


class Pictures(Source):
    """Pictures of a few bytes; ``edits`` are other bytes for some, ``broken`` cannot be decoded."""

    def __init__(
        self, count: int = 60, edits: dict[int, bytes] | None = None, broken: tuple[int, ...] = (7, 33)
    ):
        self.orient = self.strict = True
        self.classes = ("cat", "dog", "eel")
        self.ignored = 0
        self.count, self.edits, self.broken = count, edits or {}, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        # The order of the source is not the order of the keys.
        return Item(f"set/{(index * 7) % 61:03d}", f"photos/{index}.jpg", f"photo № {index}", index % 3)

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        if not 0 <= index < self.count:
            raise SourceError("not there")
        return self.edits.get(index, b"picture %d" % index), self.stat(index)

    def stat(self, index: int) -> Stat | None:
        return Stat(len(self.edits.get(index, b"picture %d" % index)), 10**18 + index)

    def fingerprint(self, index: int, encoder: str = "vae") -> Fingerprint:
        """What the encoder's output is made from: the picture, or the caption for ``text``."""
        if encoder == "text":
            return Fingerprint(hashlib.sha256((self[index].caption or "").encode()).hexdigest())
        content, stat = self.read(index)
        return Fingerprint(hashlib.sha256(content).hexdigest(), stat)


def contract(encoder: str, **changes: object) -> Contract:
    outputs = {
        "vae": {"latents": {"shape": [4, 3, 2], "dtype": "float16"}},
        "text": {
            "hidden": {"shape": [5, 6], "dtype": "float32"},
            "attention_mask": {"shape": [5], "dtype": "uint8"},
        },
        "dino": {"cls": {"shape": [9], "dtype": "float32"}, "patches": {"shape": [2, 9], "dtype": "float32"}},
    }[encoder]
    fields: dict[str, object] = {
        "encoder": encoder,
        "model": "example",
        "revision": None,
        "weights": "random:0",
        "pretrained": False,
        "input": {"size": 8, "range": [-1, 1]},
        "stored": "posterior_mean",
        "outputs": outputs,
        "precision": "32-true",
    }
    return Contract(**(fields | changes))  # type: ignore[arg-type]


def numbers(encoder: str, source: Pictures, index: int, output: str) -> np.ndarray:
    """What the encoder makes of one picture: depends on what it is made from alone."""
    declared = contract(encoder).outputs[output]
    if output == "attention_mask":
        return (np.arange(5) < 1 + index % 5).astype(np.uint8)
    content = source.fingerprint(index, encoder).sha256
    seed = int.from_bytes(hashlib.sha256((encoder + content).encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(declared["shape"]).astype(declared["dtype"])


def batches(encoder: str, source: Pictures, indices: list[int]) -> Iterator[Encoded | Failure]:
    for start in range(0, len(indices), BATCH):
        rows = indices[start : start + BATCH]
        for index in [i for i in rows if i in source.broken]:
            yield failure(source, index, encoder)
        rows = [i for i in rows if i not in source.broken]
        if not rows:
            continue
        facts = [{"width": 640 + i, "height": 480, "aspect_bucket": "1024x1024"} for i in rows]
        if encoder == "text":
            facts = [{"attention_mask_length": 1 + i % 5, "max_length": 5} for i in rows]
        yield Encoded(
            encoder,
            rows,
            [source[i].key for i in rows],
            {
                output: np.stack([numbers(encoder, source, i, output) for i in rows])
                for output in contract(encoder).outputs
            },
            facts,
            [source.fingerprint(i, encoder) for i in rows],
        )


def failure(source: Pictures, index: int, *encoders: str) -> Failure:
    return Failure(index, source[index].key, "decode", "not a JPEG", encoders, source.fingerprint(index))


def make(kind: str, root: Path) -> Store:
    if kind == "npy":
        return NpyStore(root=str(root), folders={"vae": "vae_latents"}, record_fields=COPIES)
    return ShardStore(root=str(root), shard_size=16, dataset="example", split="val")


def missing(store: Store, encoder: str, source: Pictures, retry: bool = False) -> list[int]:
    """The indices that the plan has left."""
    return [int(i) for unit in plan(store, encoder, source, retry) for i in unit.indices]


def plan(
    store: Store, encoder: str, source: Pictures, retry: bool = False, overwrite: bool = False
) -> list[Unit]:
    held = Quarantine.read(store.root).held(encoder)

    def unchanged(index: int, made_from: Fingerprint) -> bool:
        return not overwrite and made_from == source.fingerprint(index, encoder)

    def is_held(index: int) -> bool:
        entry = held.get(source[index].key)
        return not retry and entry is not None and entry.source == source.fingerprint(index)

    return store.missing(encoder, source, unchanged, is_held)


def run(
    root: Path,
    kind: str,
    source: Pictures | None = None,
    encoders: tuple[str, ...] = ("vae", "text"),
    retry: bool = False,
    overwrite: bool = False,
    contracts: dict[str, Contract] | None = None,
    stop_after: int = 10**9,
) -> None:
    """Encode what is missing, encoder by encoder; give up after ``stop_after`` results."""
    source, store = source or Pictures(), make(kind, root)
    contracts = contracts or {encoder: contract(encoder) for encoder in encoders}
    if not overwrite:
        store.check(contracts)
    plans = {encoder: plan(store, encoder, source, retry, overwrite) for encoder in encoders}
    with OutputLock(root):
        store.open(contracts, overwrite=overwrite)
        for encoder, units in plans.items():
            store.begin(encoder, units, source)
            for unit in units:
                for result in batches(encoder, source, [int(i) for i in unit.indices]):
                    if stop_after == 0:
                        store.finish(source, complete=False)
                        return
                    stop_after -= 1
                    store.write(result) if isinstance(result, Encoded) else store.fail(result)
        store.finish(source, complete=True)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a root; the times in the quarantine are left out."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    if "quarantine.jsonl" in files:
        files["quarantine.jsonl"] = re.sub(rb'"time": "[^"]*"', b'"time": ""', files["quarantine.jsonl"])
    return files


class Killed(BaseException):
    """A process ends here."""


class FailingStorage(LocalStorage):
    """Dies instead of its nth fsync, rename or removal (0: never), and stays dead; syncs nothing."""

    def __init__(self, nth: int = 0) -> None:
        self.nth, self.calls, self._lock = nth, 0, threading.Lock()

    def _step(self) -> None:
        with self._lock:
            self.calls += 1
            if self.nth and self.calls >= self.nth:
                raise Killed

    def sync(self, descriptor: int) -> None:
        self._step()

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)


def killed(root: Path, kind: str, nth: int, **options: object) -> bool:
    """A run on a storage that dies at the nth call; whether it died."""
    try:
        with using(FailingStorage(nth)):
            run(root, kind, **options)  # type: ignore[arg-type]
    except Killed:
        return True
    return False


def calls(root: Path, kind: str) -> int:
    """How many such calls a run makes."""
    storage = FailingStorage()
    with using(storage):
        run(root, kind)
    return storage.calls


def kill_at(nth: int) -> list[int]:
    """SIGKILL this process instead of the nth fsync, rename or removal. Returns a counter of these."""
    calls = [0]

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            calls[0] += 1
            if calls[0] == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, call)

    for name in ("fsync", "replace", "unlink"):
        counted(name)
    return calls


if __name__ == "__main__":
    counter = kill_at(int(sys.argv[3]))
    run(Path(sys.argv[1]), sys.argv[2])
    print(counter[0])
