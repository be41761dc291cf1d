"""Arrays that nobody recorded the making of: refused, left alone, or adopted. Real runs and real kills."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from encode_process import encode, run_verb
from PIL import Image
from recipes import UPRIGHT, photo
from rich.console import Console
from store_run import kill_at

from latentkit.encoders import DINOv3, Random
from latentkit.sources import ApprovedSource
from latentkit.stores import NpyStore
from latentkit.stores.ledger import read_done
from latentkit.upkeep.adopt import adopt

KEYS = ("a", "b", "c", "d")
LIBRARY = ("dataset=crawlr", "weights=random", "workers=0")
DINOV3 = ("encoder=dinov3", "encoders.dinov3.batch_size=4")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A library of four pictures, migrated from Stage 1; b's embedding is not finite, c's picture is gone."""
    work = tmp_path / "work"
    derived, approved = work / "data" / "derived", work / "data" / "approved"
    derived.mkdir(parents=True)
    approved.mkdir()
    with (derived / "approved_image_dataset.jsonl").open("w") as records:
        for seed, key in enumerate(KEYS):
            Image.fromarray(photo(seed, 48, 64)).save(approved / f"{key}.png")
            embedding = np.random.default_rng(seed).standard_normal(1024).astype(np.float32).tolist()
            record = {"image_path": f"data/approved/{key}.png", "dinov3_embedding": embedding}
            print(json.dumps(record | {"caption": f"is {key}", "width": 64, "height": 48}), file=records)
    migrated = run_verb("migrate", cwd=work)
    assert migrated.returncode == 0, migrated.stderr
    array = np.load(derived / "dinov3" / "b.npy")
    array[7] = np.nan
    np.save(derived / "dinov3" / "b.npy", array)
    (approved / "c.png").unlink()
    return work


def tree(work: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    claim = "data/derived/dinov3/contract.json"
    return files | {claim: re.sub(rb'"time": "[^"]*"', b"", files[claim])}


def contract(work: Path) -> dict:
    return json.loads((work / "data/derived/dinov3/contract.json").read_text())


def encoders(work: Path) -> dict[str, list[str]]:
    lines = (work / "data/derived/approved_image_dataset.jsonl").read_text().splitlines()
    return {record["image_id"]: record["encoders"] for record in map(json.loads, lines)}


def test_what_a_user_does_with_a_migrated_library(work: Path) -> None:
    embeddings = {key: (work / f"data/derived/dinov3/{key}.npy").read_bytes() for key in KEYS}
    before = tree(work)
    refused = encode(*LIBRARY, cwd=work)
    assert refused.returncode == 1, refused.stderr
    assert (
        "data/derived/dinov3 holds 4 arrays of unrecorded origin: adopt=true takes them for dinov3's own, "
        "encoder=[others] leaves them, overwrite=true encodes them again"
    ) in refused.stderr
    other = encode(
        *LIBRARY,
        "adopt=true",
        *DINOV3,
        "encoders.dinov3.patches=true",
        cwd=work,
    )
    assert other.returncode == 1, other.stderr
    assert "stored: there cls, asked cls+patches" in other.stderr
    for wrong in ("overwrite=true", "limit=2", "store=shards"):
        assert encode(*LIBRARY, *DINOV3, "adopt=true", wrong, cwd=work).returncode == 2
    dry = encode(*LIBRARY, *DINOV3, "adopt=true", "dry_run=true", cwd=work)
    assert dry.returncode == 0, dry.stderr
    assert "dinov3: at most 3 arrays would be adopted" in dry.stderr
    assert tree(work) == before

    beside = encode(*LIBRARY, "encoder=t5", cwd=work)
    assert beside.returncode == 0, beside.stderr
    assert encoders(work)["a"] == ["dinov3", "t5"]
    assert contract(work)["contract"]["model"] == "unrecorded"

    adopted = encode(*LIBRARY, "encoder=[dinov3,t5]", "encoders.dinov3.batch_size=4", "adopt=true", cwd=work)
    assert adopted.returncode == 0, adopted.stderr
    assert "dinov3: 2 of 4 arrays adopted" in adopted.stderr
    assert "dinov3: 1 to encode" in adopted.stderr
    assert contract(work)["contract"]["model"] != "unrecorded"
    assert contract(work)["adopted"]["arrays"] == 2
    for key in ("a", "d"):
        assert (work / f"data/derived/dinov3/{key}.npy").read_bytes() == embeddings[key]
    assert np.isfinite(np.load(work / "data/derived/dinov3/b.npy")).all()
    done = read_done(work / "data/derived", "dinov3")
    assert set(done) == {"a", "b", "d"}
    for key, entry in done.items():
        assert entry.sha256 == hashlib.sha256((work / f"data/approved/{key}.png").read_bytes()).digest()

    again = encode(*LIBRARY, "encoder=[dinov3,t5]", "encoders.dinov3.batch_size=4", cwd=work)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr


def test_overwriting_encodes_all_again(work: Path) -> None:
    before = (work / "data/derived/dinov3/a.npy").read_bytes()
    ended = encode(*LIBRARY, *DINOV3, "overwrite=true", cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert (work / "data/derived/dinov3/a.npy").read_bytes() != before
    assert "adopted" not in contract(work)


@pytest.mark.parametrize(("crop", "adopted"), [("bucket", 2), ("original", 0)])
def test_latents_need_their_geometry_and_hidden_states_their_caption(
    work: Path, crop: str, adopted: int
) -> None:
    derived = work / "data" / "derived"
    for folder in ("vae_latents", "t5_hidden"):
        (derived / folder).mkdir()
    for key in ("a", "b"):
        np.save(derived / "vae_latents" / f"{key}.npy", np.ones((16, 104, 152), np.float16))
        np.save(derived / "t5_hidden" / f"{key}.npy", np.ones((77, 1024), np.float16))
    path = derived / "approved_image_dataset.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record |= {
            "t5_attention_mask": [1, 1, *[0] * 75],
            "caption": None if record["image_id"] == "a" else "b",
        }
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert run_verb("migrate", cwd=work).returncode == 0
    arguments = ("encoder=[flux_vae,t5]", f"encoders.flux_vae.crop={crop}", "adopt=true")
    ended = encode(*LIBRARY, *arguments, cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert f"flux_vae: {adopted} of 2 arrays adopted" in ended.stderr
    assert "t5: 1 of 2 arrays adopted" in ended.stderr
    assert encoders(work)["b"] == ["dinov3", "flux_vae", "t5"]
    assert encoders(work)["a"] == ["dinov3", "flux_vae"]


def test_a_kill_anywhere_while_adopting(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    encoder = DINOv3(weights=Random())
    store = NpyStore(root="data/derived", records="approved_image_dataset.jsonl")

    def run() -> None:
        source = ApprovedSource()
        adopt(store, encoder, encoder.contract(UPRIGHT), source, Console(quiet=True), dry_run=False)

    def forked(nth: int) -> int:
        """How a child ends that kills itself at its nth call, in waitpid's terms."""
        child = os.fork()
        if child == 0:
            kill_at(nth)
            run()
            os._exit(0)
        return os.waitpid(child, 0)[1]

    before = tree(work)
    run()
    clean = tree(work)
    assert clean != before
    nth = 1
    while True:
        for path in [path for path in work.rglob("*") if path.is_file()]:
            path.unlink()
        for name, content in before.items():
            (work / name).write_bytes(content)
        status = forked(nth)
        run()
        assert tree(work).keys() == clean.keys()
        assert stamped(tree(work)) == stamped(clean), f"killed at call {nth}"
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        nth += 1
    assert nth > 6  # the ledger, then the contract: written, named, and the folder synced


def stamped(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the times of the pictures, which were written anew for each kill."""
    return {name: re.sub(rb'"mtime_ns": \d+', b"", content) for name, content in files.items()}
