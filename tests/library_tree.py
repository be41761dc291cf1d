"""A small photo library with outputs of three toy encoders, made through the store's own calls."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from store_run import batches, contract, plan

from latentkit.prediction.plan import caption_fingerprint
from latentkit.prediction.results import Encoded
from latentkit.sources import ApprovedSource
from latentkit.sources.library import Library
from latentkit.sources.source import Fingerprint
from latentkit.stores import NpyStore, OutputLock

ENCODERS = ("vae", "text", "dino")
FOLDERS = {"vae": "vae_latents", "text": "t5_hidden"}
COPIES = {"t5_attention_mask": "text", "aspect_bucket": "vae"}
STORE = (
    "store=npy",
    "store.records=approved_image_dataset.jsonl",
    *(f"+store.folders.{encoder}={folder}" for encoder, folder in FOLDERS.items()),
    *(f"store.record_fields.{field}={encoder}" for field, encoder in COPIES.items()),
)
"""`store` on a command line."""


@dataclass(kw_only=True, eq=False)
class Photos(ApprovedSource):
    """The library as `store_run` wants it; ``broken`` cannot be decoded."""

    broken: tuple[int, ...] = ()

    def fingerprint(self, index: int, encoder: str = "") -> Fingerprint:
        if encoder == "text":
            return caption_fingerprint(self[index].caption or "")
        content, stat = self.read(index)
        return Fingerprint(hashlib.sha256(content).hexdigest(), stat)


def build(work: Path, count: int = 12) -> Path:
    """``work/data`` with photos p00, p01 ...: links, raw files, and all outputs. Returns ``data``."""
    data = work / "data"
    for folder in ("raw", "approved"):
        (data / folder).mkdir(parents=True)
    for number in range(count):
        (data / "raw" / f"p{number:02d}").write_bytes(b"photo %d" % number)
        (data / "approved" / f"p{number:02d}.jpg").symlink_to(f"../raw/p{number:02d}")
        (data / "approved" / f"p{number:02d}.txt").write_text(f"photo number {number}")
    encode(data)
    return data


def library(data: Path) -> Library:
    return Library(data / "approved", data / "raw", data)


def store(data: Path) -> NpyStore:
    return NpyStore(
        root=str(data / "derived"),
        folders=FOLDERS,
        records="approved_image_dataset.jsonl",
        record_fields=COPIES,
    )


def encode(data: Path, broken: tuple[int, ...] = (5,)) -> None:
    """All that is missing, as a run in ``work`` does it."""
    with contextlib.chdir(data.parent), OutputLock("data/derived"):
        source, out = Photos(broken=broken), store(Path("data"))
        contracts = {name: contract(name) for name in ENCODERS}
        out.open(contracts)
        units = {name: plan(out, name, source) for name in ENCODERS}
        for name in ENCODERS:
            out.begin(name, units[name], source)
            for unit in units[name]:
                for result in batches(name, source, [int(i) for i in unit.indices]):
                    out.write(result) if isinstance(result, Encoded) else out.fail(result)
        out.finish(source, complete=True)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and link below a folder, but for the locks' own files."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.fsencode(path.readlink())
        elif path.is_file() and path.name not in {"lock", "holder.json"}:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found
