"""A photo library's outputs with the real layout and tiny arrays, written through the store's own calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.prediction.plan import caption_fingerprint
from latentkit.prediction.results import Encoded
from latentkit.sources.source import Fingerprint, Item, Source, Stat
from latentkit.stores import NpyStore, OutputLock

TOKENS = 7
BUCKETS = ("64x64", "48x80", "80x48")
FOLDERS = {"flux_vae": "vae_latents", "t5": "t5_hidden"}
COPIES = {"t5_attention_mask": "t5", "aspect_bucket": "flux_vae"}
RECORDS = "approved_image_dataset.jsonl"
ODD_KEYS = ("a.b", "tom/kitten.v2", "50%", "naïve", "x" * 150, "__meta__", "two words")
KEYS = (*ODD_KEYS, *(f"p{number:02d}" for number in range(16)))


class Captioned(Source):
    """Pictures of a few bytes with captions; those in ``wordless`` have none."""

    def __init__(self, keys: Sequence[str] = KEYS, wordless: Sequence[str] = (), version: int = 0) -> None:
        self.orient = self.strict = True
        self.classes = ()
        self.ignored = 0
        self.keys, self.wordless, self.version = list(keys), wordless, version

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Item:
        key = self.keys[index]
        return Item(key, f"data/approved/{key}.jpg", None if key in self.wordless else f"A photo of {key}")

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        return f"{self.version} {self.keys[index]}".encode(), self.stat(index)

    def stat(self, index: int) -> Stat | None:
        return Stat(len(self.keys[index]) + 2, 10**18 + index)


def bucket_of(key: str) -> str:
    return BUCKETS[int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(BUCKETS)]


def contracts(**changes: Any) -> dict[str, Contract]:
    """Of the library's three encoders; ``changes`` for flux_vae."""
    fields: dict[str, Any] = {
        "model": "example",
        "revision": None,
        "weights": {"model.safetensors": "00"},
        "pretrained": True,
        "input": {"range": [-1, 1]},
        "precision": "32-true",
    }
    vae = {
        "stored": "posterior_mean",
        "outputs": {"latents": {"shape": [4, "H/8", "W/8"], "dtype": "float16"}},
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    }
    dino = {"cls": {"shape": [6], "dtype": "float32"}, "patches": {"shape": [2, 6], "dtype": "float32"}}
    hidden = {"hidden": {"shape": [TOKENS, 5], "dtype": "float16"}}
    return {
        "dinov3": Contract(encoder="dinov3", stored="cls+patches", outputs=dino, **fields),
        "flux_vae": Contract(encoder="flux_vae", **(fields | vae | changes)),
        "t5": Contract(encoder="t5", stored="hidden", outputs=hidden, **fields),
    }


def array(source: Captioned, index: int, encoder: str, output: str, shape: Sequence[Any], dtype: str) -> Any:
    """What the encoder makes of one picture."""
    width, height = map(int, bucket_of(source.keys[index]).split("x"))
    sides = {"H/8": height // 8, "W/8": width // 8}
    name = f"{encoder} {output}".encode() + source.read(index)[0]
    rng = np.random.default_rng(list(hashlib.sha256(name).digest()))
    return rng.standard_normal([sides.get(side, side) for side in shape]).astype(dtype)


def build(root: Path, source: Captioned | None = None, *, buckets: bool = True, **changes: Any) -> NpyStore:
    """Encode every picture of the source (again); t5 those with a caption. Returns the store."""
    source = source or Captioned()
    store = NpyStore(root=str(root), folders=FOLDERS, records=RECORDS, record_fields=COPIES)
    with OutputLock(root):
        store.open(contracts(**changes))
        for encoder, contract in contracts(**changes).items():
            store.begin(encoder, [], source)
            for index, key in enumerate(source.keys):
                if encoder == "t5" and key in source.wordless:
                    continue
                content, stat = source.read(index)
                made_from = Fingerprint(hashlib.sha256(content).hexdigest(), stat)
                facts: dict[str, Any] = {"width": 640, "height": 480}
                if encoder == "flux_vae" and buckets:
                    facts["aspect_bucket"] = bucket_of(key)
                if encoder == "t5":
                    made_from = caption_fingerprint(source[index].caption or "")
                    facts = {"attention_mask_length": 1 + index % TOKENS, "max_length": TOKENS}
                arrays = {
                    output: array(source, index, encoder, output, declared["shape"], declared["dtype"])[None]
                    for output, declared in contract.outputs.items()
                }
                store.write(Encoded(encoder, [index], [key], arrays, [facts], [made_from]))
        store.finish(source, complete=True)
    return store


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a root but the lock."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
