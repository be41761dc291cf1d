"""What a record says of an encoder's input stands under that encoder's name."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from training_tree import Captioned, contracts, tree

from latentkit.encoders.contract import Contract
from latentkit.exports.webdataset import TarJob
from latentkit.prediction.plan import caption_fingerprint
from latentkit.prediction.results import Encoded
from latentkit.sources.source import Fingerprint
from latentkit.stores import LatentFiles, LatentTars, NpyStore, OutputLock
from latentkit.stores.open import open_output

TOKENS = {"clip": 7, "t5": 12}
SEEN = {"clip": [2, 7, 1], "t5": [3, 9, 12]}
BUCKETS = {"flux_vae": ["64x64", "48x80", "64x64"], "sd3_vae": ["32x32", "32x32", "24x40"]}
KEYS = ["a", "b", "c"]


def text(name: str) -> Contract:
    like = contracts()["t5"].to_dict()
    hidden = {"shape": [TOKENS[name], 5], "dtype": "float16"}
    return Contract(**(like | {"encoder": name, "outputs": {"hidden": hidden}}))


def vae(name: str) -> Contract:
    like = contracts()["flux_vae"].to_dict()
    return Contract(**(like | {"encoder": name, "outputs": {"latents": {"shape": [4], "dtype": "float16"}}}))


def build(root: Path, copies: dict[str, str] | None = None) -> NpyStore:
    """Two caption encoders and two autoencoders over three pictures."""
    source = Captioned(KEYS)
    store = NpyStore(root=str(root), record_fields=copies or {})
    asked = {name: text(name) for name in TOKENS} | {name: vae(name) for name in BUCKETS}
    with OutputLock(root):
        store.open(asked)
        for name, contract in asked.items():
            store.begin(name, [], source)
            ((output, declared),) = contract.outputs.items()
            arrays = {output: np.ones((3, *declared["shape"]), declared["dtype"])}
            if name in TOKENS:
                facts = [
                    {"attention_mask_length": n, "max_length": TOKENS[name], "cut": False} for n in SEEN[name]
                ]
                made_from = [caption_fingerprint(source[i].caption or "") for i in range(3)]
            else:
                facts = [{"width": 64, "height": 80, "aspect_bucket": bucket} for bucket in BUCKETS[name]]
                made_from = [Fingerprint(f"{i:064x}", source.stat(i)) for i in range(3)]
            store.write(Encoded(name, [0, 1, 2], KEYS, arrays, facts, made_from))
        store.finish(source, complete=True)
    return store


def records(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]


def test_each_encoder_has_its_own_facts(tmp_path: Path) -> None:
    build(tmp_path)
    for row, record in enumerate(records(tmp_path)):
        assert record["facts"] == {
            "clip": {"attention_mask_length": SEEN["clip"][row], "max_length": 7, "cut": False},
            "flux_vae": {"aspect_bucket": BUCKETS["flux_vae"][row]},
            "sd3_vae": {"aspect_bucket": BUCKETS["sd3_vae"][row]},
            "t5": {"attention_mask_length": SEEN["t5"][row], "max_length": 12, "cut": False},
        }
        assert (record["width"], record["height"]) == (64, 80)
        assert not {"t5_attention_mask", "aspect_bucket"} & record.keys()
        assert open_output(tmp_path / "clip").facts(record["image_id"]) == record["facts"]["clip"]


@pytest.mark.parametrize("encoder", ["clip", "t5"])
def test_a_store_copies_the_facts_of_the_encoder_that_it_names(tmp_path: Path, encoder: str) -> None:
    build(tmp_path, {"t5_attention_mask": encoder, "aspect_bucket": "sd3_vae"})
    for row, record in enumerate(records(tmp_path)):
        seen = SEEN[encoder][row]
        assert record["t5_attention_mask"] == [1] * seen + [0] * (TOKENS[encoder] - seen)
        assert record["aspect_bucket"] == BUCKETS["sd3_vae"][row]


def test_readers_and_tars_take_each_encoders_mask_and_bucket(tmp_path: Path) -> None:
    store = build(tmp_path / "out", {"t5_attention_mask": "t5", "aspect_bucket": "flux_vae"})
    job = TarJob(store=store, shards_dir=str(tmp_path / "tars"))
    with job.locks():
        job.run(job.plan(), Console(file=io.StringIO()))
    buckets = [f"{flux}+{sd3}" for flux, sd3 in zip(*BUCKETS.values(), strict=True)]
    assert {path.parent.name for path in (tmp_path / "tars").glob("*/*.tar")} == {
        f"bucket_{b}" for b in buckets
    }
    files = LatentFiles(tmp_path / "out")
    for samples in (
        list(files),
        sorted(LatentTars(tmp_path / "tars"), key=lambda sample: sample["image_id"]),
    ):
        assert [sample["image_id"] for sample in samples] == KEYS
        for row, sample in enumerate(samples):
            for name, tokens in TOKENS.items():
                assert sample[f"{name}_mask"].tolist() == [n < SEEN[name][row] for n in range(tokens)]
            assert sample["aspect_bucket"] == buckets[row]
    alone = LatentFiles(tmp_path / "out", encoders=["sd3_vae", "clip"])
    assert [sample["aspect_bucket"] for sample in alone] == BUCKETS["sd3_vae"]


def test_records_of_the_version_before_are_read_and_packed_as_they_are(tmp_path: Path) -> None:
    """They have the mask and the bucket at the top alone; the ledgers had all facts always."""
    store = build(tmp_path / "out")
    old = [{k: v for k, v in record.items() if k != "facts"} for record in records(tmp_path / "out")]
    lines = [json.dumps(record | {"t5_attention_mask": [1] * 12, "aspect_bucket": "8x8"}) for record in old]
    (tmp_path / "out" / "records.jsonl").write_text("\n".join(lines) + "\n")
    before = tree(tmp_path / "out")
    for row, sample in enumerate(LatentFiles(tmp_path / "out")):
        assert int(sample["clip_mask"].sum()) == SEEN["clip"][row]
    job = TarJob(store=store, shards_dir=str(tmp_path / "tars"))
    with job.locks():
        job.run(job.plan(), Console(file=io.StringIO()))
    packed: list[str] = []
    for path in (tmp_path / "tars").rglob("*.tar"):
        with tarfile.open(path) as tar:
            packed += tar.getnames()
    assert sum(name.endswith(".json") for name in packed) == 3
    assert {k: v for k, v in tree(tmp_path / "out").items() if not k.startswith(".latentkit/lock")} == {
        k: v for k, v in before.items() if not k.startswith(".latentkit/lock")
    }
