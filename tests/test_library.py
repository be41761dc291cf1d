"""The photo library from the crawler's list to tars and back, each step as its command. Random weights."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from encode_process import Ended, run_verb
from photo_server import PhotoServer
from PIL import Image
from recipes import photo

SIZES = [(96, 96), (128, 84), (84, 128), (96, 96), (130, 78), (96, 96), (78, 130), (96, 96)]  # height, width
FOLDERS = ("dinov3", "vae_latents", "t5_hidden")
RECORDS = "data/derived/approved_image_dataset.jsonl"
SMALL_BUCKETS = "encoders.flux_vae.buckets=[64x64,56x80,80x56,48x80,80x48]"
SMALL_BATCHES = [f"encoders.{name}.batch_size=4" for name in ("dinov3", "flux_vae", "t5")]
GUIDE = Path(__file__).parents[1].joinpath("docs", "library.md").read_text(encoding="utf-8")
TRAINING = re.findall(r"<!-- tested: training.*? -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
STAGE1 = ("photo00", "photo01", "photo03")
UNCAPTIONED, WITHDRAWN = "photo05", "photo03"


def jpeg(seed: int, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(seed, height, width)).save(file, "JPEG", quality=95)
    return file.getvalue()


def records(root: Path) -> dict[str, dict]:
    lines = root.joinpath(RECORDS).read_text().splitlines()
    return {record["image_id"]: record for record in map(json.loads, lines)}


def arrays(root: Path) -> dict[str, bytes]:
    found = sorted(path for folder in FOLDERS for path in (root / "data/derived" / folder).glob("*.npy"))
    return {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in found}


def assert_close(one: Path, other: Path) -> None:
    """The same arrays: batches of another size round differently, far below what is allowed."""
    assert arrays(one).keys() == arrays(other).keys()
    for name in arrays(one):
        a, b = (np.load(root / f"data/derived/{name}.npy").astype(np.float64) for root in (one, other))
        assert np.linalg.norm(a - b) < 3e-3 * np.linalg.norm(a), name


def samples(root: Path) -> set[str]:
    """The image ids in all tars that the manifest lists, and no other tar is there."""
    shards = root / "data/shards"
    manifest = json.loads((shards / "manifest.json").read_bytes())
    listed = {entry["path"] for entry in manifest["shards"]}
    assert listed == {path.relative_to(shards).as_posix() for path in shards.rglob("*.tar")}
    ids = set()
    for path in listed:
        with tarfile.open(shards / path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    ids.add(json.load(tar.extractfile(member))["image_id"])
    return ids


@pytest.fixture(scope="module")
def embeddings() -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(1024, np.float32).tolist() for name in STAGE1}


@pytest.mark.slow
def test_the_whole_way(
    tmp_path: Path, embeddings: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = {f"photo{i:02d}": jpeg(i, *size) for i, size in enumerate(SIZES)}
    low, high = tmp_path / "low", tmp_path / "high"
    low.mkdir()

    def run(verb: str, *arguments: str, cwd: Path = low, expect: int = 0) -> Ended:
        ended = run_verb(verb, *arguments, cwd=cwd)
        assert ended.returncode == expect, ended.stderr
        return ended

    assert len(TRAINING) == 2
    with PhotoServer(photos, page_size=3) as server:
        captions = {name: f"A field of colours, number {name}." for name in photos if name != UNCAPTIONED}

        def listed() -> list[dict]:
            words = [(name, {"description": captions[name]} if name in captions else {}) for name in photos]
            return [server.entry(name, album="summer", **extra) for name, extra in words]

        server.entries = listed()
        sync = ("sync", f"base_url={server.base_url}")
        run(*sync)
        links = sorted(path.name for path in (low / "data/approved").iterdir())
        assert links == [f"{name}.jpg" for name in photos]
        for name, data in photos.items():
            assert (low / f"data/approved/{name}.jpg").read_bytes() == data

        stage1 = [
            {"image_path": f"data/approved/{name}.jpg", "dinov3_embedding": values, "caption": f"Old {name}."}
            | {"t5_attention_mask": [1] * 6 + [0] * 71, "rating": 4.5}
            for name, values in embeddings.items()
        ]
        (low / "data/derived").mkdir()
        low.joinpath(RECORDS).write_text("".join(json.dumps(record) + "\n" for record in stage1))
        run("migrate")
        for name, values in embeddings.items():
            there = np.load(low / f"data/derived/dinov3/{name}.npy")
            assert there.dtype == np.float32
            assert there.tolist() == values
            assert "dinov3_embedding" not in records(low)[name]

        small = ("dataset=crawlr", "weights=random", "workers=1", SMALL_BUCKETS, *SMALL_BATCHES)
        assert "adopt=true" in run("encode", *small, expect=1).stderr
        shutil.copytree(low, high, symlinks=True)
        run("encode", *small, "adopt=true", "vram=low")
        run("encode", *small, "adopt=true", "vram=high", cwd=high)
        assert_close(low, high)
        assert low.joinpath(RECORDS).read_bytes() == high.joinpath(RECORDS).read_bytes()

        assert len(arrays(low)) == 3 * len(photos) - 1
        for name, record in records(low).items():
            complete = name != UNCAPTIONED
            assert record["encoders"] == ["dinov3", "flux_vae", *["t5"] * complete]
            assert ("t5_attention_mask" in record) == complete
            assert record["metadata"]["album"] == "summer"
            if name in STAGE1:
                assert record["rating"] == 4.5
                assert record["caption"] == f"Old {name}."
                assert np.load(low / f"data/derived/dinov3/{name}.npy").tolist() == embeddings[name]
            elif complete:
                assert record["caption"] == captions[name]
        summary = json.loads((low / "data/derived/summary.json").read_bytes())
        assert summary["incomplete"] == 1
        run("verify", "dataset=crawlr")

        tomorrow = time.time() + 86_400  # as a clock that was a day off leaves it
        for path in (low / "data").rglob("*"):
            os.utime(path, (tomorrow, tomorrow), follow_symlinks=False)
        fetched = server.fetched()
        run(*sync)
        assert server.fetched() == fetched
        assert run("prune", "dry_run=true").stdout == ""

        run("shard", "shard_size=2")
        assert samples(low) == set(photos) - {UNCAPTIONED}
        monkeypatch.chdir(low)
        for code in TRAINING:
            names: dict = {}
            exec(code.replace("scaled=True", "scaled=True, allow_random=True"), names)
            assert names["latents"].dtype == torch.float32
            assert (
                len(names["dataset"]) == len(photos) - 1 if "LatentFiles" in code else names["embedding"].ndim
            )

        before = {"records": low.joinpath(RECORDS).read_bytes(), **arrays(low)}
        gone = photos.pop(WITHDRAWN)
        server.entries = listed()
        run(*sync, "prune=true")
        assert WITHDRAWN not in records(low)
        assert set(arrays(low)) == {
            name for name in before if name.split("/")[-1] not in ("records", WITHDRAWN)
        }
        assert not any(
            WITHDRAWN in path.name
            for folder in ("raw", "approved")
            for path in (low / "data" / folder).iterdir()
        )
        run("verify", "dataset=crawlr")
        run("shard", "shard_size=2")
        assert samples(low) == set(photos) - {UNCAPTIONED}

        run("prune", "restore=true")
        assert {"records": low.joinpath(RECORDS).read_bytes(), **arrays(low)} == before
        assert (low / f"data/approved/{WITHDRAWN}.jpg").read_bytes() == gone
