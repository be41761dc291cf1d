"""Encoding end to end, as a user types it. Random weights: this is about the run, not the numbers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from encode_process import encode
from PIL import Image
from recipes import photo
from safetensors.numpy import load_file

SMALL = ("dataset=folder", "dataset.root=photos", "weights=random", "output_dir=out")
SD_VAE = ("encoder=sd_vae", "encoders.sd_vae.batch_size=4")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """tmp/work/photos: nine pictures of three shapes, captions for all but the last."""
    folder = tmp_path / "work" / "photos"
    folder.mkdir(parents=True)
    for number, size in enumerate([(96, 128), (128, 96), (100, 100)] * 3):
        save(folder / f"p{number}.jpg", number, *size)
        if number < 8:
            (folder / f"p{number}.txt").write_text(f"Picture number {number}")
    return folder


def save(path: Path, seed: int, height: int = 96, width: int = 128) -> None:
    Image.fromarray(photo(seed, height, width)).save(path, quality=90)


def arrays(out: Path) -> list[Path]:
    return sorted([*out.rglob("*.npy"), *out.rglob("*.safetensors")])


def done(out: Path) -> dict[str, int]:
    summary = json.loads((out / "summary.json").read_text())
    return {encoder["encoder"]: encoder["done"] for encoder in summary["encoders"]}


def test_a_folder_becomes_arrays_records_a_summary_and_a_picture(photos: Path) -> None:
    ended = encode(*SMALL, "encoder=[dinov3,flux_vae,t5]", "encoders.dinov3.batch_size=4", cwd=photos.parent)
    assert ended.returncode == 0, ended.stderr
    out = photos.parent / "out"
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [record["image_id"] for record in records] == [f"p{n}" for n in range(9)]
    first = records[0]
    assert list(first)[:8] == [
        "image_path",
        "caption",
        "width",
        "height",
        "t5_attention_mask",
        "image_id",
        "aspect_bucket",
        "format_version",
    ]
    assert (first["image_path"], first["caption"]) == ("photos/p0.jpg", "Picture number 0")
    assert (first["width"], first["height"], first["aspect_bucket"]) == (128, 96, "1216x832")
    assert first["t5_attention_mask"] == [1] * (len("Picture number 0") + 1) + [0] * (77 - 17)
    assert first["format_version"] == 2
    assert "t5_attention_mask" not in records[8]
    assert records[8]["encoders"] == ["dinov3", "flux_vae"]
    for number in range(9):
        embedding = np.load(out / "dinov3" / f"p{number}.npy", allow_pickle=False)
        assert (embedding.shape, embedding.dtype) == ((1024,), np.float32)
        width, height = map(int, records[number]["aspect_bucket"].split("x"))
        latent = np.load(out / "flux_vae" / f"p{number}.npy", allow_pickle=False)
        assert (latent.shape, latent.dtype) == ((16, height // 8, width // 8), np.float16)
    hidden = np.load(out / "t5" / "p0.npy", allow_pickle=False)
    assert (hidden.shape, hidden.dtype) == ((77, 1024), np.float16)
    assert not (out / "t5" / "p8.npy").exists()
    assert done(out) == {"dinov3": 9, "flux_vae": 9, "t5": 8}
    contract = json.loads((out / "dinov3" / "contract.json").read_text())
    assert contract["contract"]["pretrained"] is False
    assert contract["sha256"][:12] in ended.stderr
    assert ended.stderr.count("RANDOM WEIGHTS") == 2
    with Image.open(out / "preview.png") as preview:
        assert preview.width > 1000
        assert preview.height > 300
    for noise in ("Warning", "GPU available", "Lightning", "Traceback"):
        assert noise not in ended.stderr


def test_flip_adds_a_folder_of_the_mirrored_pictures_latents(photos: Path) -> None:
    arguments = (
        *SMALL,
        *SD_VAE,
        "encoders.sd_vae.size=32",
        "encoders.sd_vae.batch_size=9",
    )
    assert encode(*arguments, "flip=true", cwd=photos.parent).returncode == 0
    assert encode(*arguments, "output_dir=plain", cwd=photos.parent).returncode == 0
    for number in range(9):
        name = f"p{number}.npy"
        upright = np.load(photos.parent / "out" / "sd_vae" / name)
        mirrored = np.load(photos.parent / "out" / "sd_vae_latents_flip" / name)
        assert mirrored.shape == upright.shape == (4, 4, 4)
        assert not np.array_equal(mirrored, upright)
        np.testing.assert_array_equal(upright, np.load(photos.parent / "plain" / "sd_vae" / name))
    refused = encode(*arguments, cwd=photos.parent)
    assert refused.returncode == 1
    assert "input.flip: there the cropped picture mirrored, asked (absent)" in refused.stderr


def test_a_second_run_does_nothing_and_changes_are_all_it_takes_up(photos: Path) -> None:
    work, out = photos.parent, photos.parent / "out"
    arguments = (*SMALL, "encoder=[dinov3,t5]", "encoders.dinov3.batch_size=4", "encoders.t5.batch_size=4")
    assert encode(*arguments, cwd=work).returncode == 0
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}

    ended = encode(*arguments, cwd=work)
    assert ended.returncode == 0
    assert "nothing to do" in ended.stderr
    assert done(out) == {"dinov3": 0, "t5": 0}
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}

    save(photos / "p9.jpg", 9)
    encode(*arguments, cwd=work)
    assert done(out) == {"dinov3": 1, "t5": 0}

    before = np.load(out / "dinov3" / "p3.npy")
    save(photos / "p3.jpg", 33)
    encode(*arguments, cwd=work)
    assert done(out) == {"dinov3": 1, "t5": 0}
    assert not np.array_equal(before, np.load(out / "dinov3" / "p3.npy"))

    os.utime(photos / "p4.jpg")  # touched, not changed
    encode(*arguments, cwd=work)
    assert done(out) == {"dinov3": 0, "t5": 0}

    (photos / "p5.txt").write_text("Another caption")
    encode(*arguments, cwd=work)
    assert done(out) == {"dinov3": 0, "t5": 1}

    (out / "dinov3" / "p1.npy").unlink()
    encode(*arguments, cwd=work)
    assert done(out) == {"dinov3": 1, "t5": 0}


def test_other_settings_stop_with_the_difference_and_overwrite_goes_on(photos: Path) -> None:
    work = photos.parent
    assert encode(*SMALL, *SD_VAE, cwd=work).returncode == 0
    before = {path: path.read_bytes() for path in (work / "out").rglob("*.npy")}
    ended = encode(
        *SMALL,
        *SD_VAE,
        "encoders.sd_vae.crop=resize",
        "seed=1",
        cwd=work,
    )
    assert ended.returncode == 1
    assert "input.crop: there adm, asked" in ended.stderr
    assert "weights: there random:0, asked random:1" in ended.stderr
    assert "overwrite=true" in ended.stderr
    assert before == {path: path.read_bytes() for path in (work / "out").rglob("*.npy")}
    assert encode(*SMALL, *SD_VAE, "seed=1", "overwrite=true", cwd=work).returncode == 0
    after = {path: path.read_bytes() for path in (work / "out").rglob("*.npy")}
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)


def test_a_limit_never_takes_away_what_is_there(photos: Path) -> None:
    work = photos.parent
    for store in ("npy", "shards"):
        arguments = (
            *SMALL[:-1],
            f"output_dir={store}",
            f"store={store}",
            *SD_VAE,
        )
        assert encode(*arguments, cwd=work).returncode == 0
        before = {path: path.read_bytes() for path in arrays(work / store)}
        ended = encode(*arguments, "overwrite=true", "limit=2", "encoders.sd_vae.crop=resize", cwd=work)
        assert ended.returncode == 2
        assert "already holds 9 pictures" in ended.stderr
        assert before == {path: path.read_bytes() for path in arrays(work / store)}


def test_a_contract_without_arrays_is_no_obstacle(photos: Path) -> None:
    work = photos.parent
    (photos / "p0.jpg").write_bytes(b"")
    stopped = encode(*SMALL, *SD_VAE, "max_failures=0", cwd=work)
    assert stopped.returncode == 1
    assert list((work / "out").rglob("*.npy")) == []
    ended = encode(
        *SMALL,
        *SD_VAE,
        "encoders.sd_vae.crop=resize",
        "max_failures=1",
        cwd=work,
    )
    assert ended.returncode == 3, ended.stderr
    contract = json.loads((work / "out" / "sd_vae" / "contract.json").read_text())["contract"]
    assert contract["input"]["crop"] != "adm"


def test_an_output_inside_the_collection_is_not_encoded(photos: Path) -> None:
    arguments = (*SMALL[:-1], "output_dir=photos/out", *SD_VAE)
    assert encode(*arguments, cwd=photos.parent).returncode == 0
    assert (photos / "out" / "preview.png").exists()
    ended = encode(*arguments, cwd=photos.parent)
    assert "9 pictures" in ended.stderr
    assert "nothing to do" in ended.stderr


def test_a_dry_run_touches_nothing(photos: Path) -> None:
    before = sorted(photos.parent.rglob("*"))
    ended = encode(*SMALL, "dry_run=true", cwd=photos.parent)
    assert ended.returncode == 0
    assert "dinov3: 9 to encode" in ended.stderr
    assert "t5: 8 to encode" in ended.stderr
    assert "1 without a caption" in ended.stderr
    ended = encode("-m", *SMALL, "dry_run=true", "encoder=dinov3,t5", cwd=photos.parent)
    assert ended.returncode == 0, ended.stderr
    assert sorted(photos.parent.rglob("*")) == before


def test_a_sweep_over_encoders_gives_what_one_run_gives(photos: Path) -> None:
    work = photos.parent
    assert encode("-m", *SMALL, "encoder=dinov3,sd_vae,t5", cwd=work).returncode == 0
    assert encode(*SMALL[:-1], "output_dir=one", "encoder=[dinov3,sd_vae,t5]", cwd=work).returncode == 0
    swept = {path.relative_to(work / "out"): path.read_bytes() for path in (work / "out").rglob("*.npy")}
    single = {path.relative_to(work / "one"): path.read_bytes() for path in (work / "one").rglob("*.npy")}
    assert swept == single
    assert len(swept) == 9 + 9 + 8
    assert (work / "out" / "records.jsonl").read_text() == (work / "one" / "records.jsonl").read_text()


def test_shards_with_labels_from_class_folders(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for label, name in enumerate(["cat", "dog", "eel"]):
        (work / "photos" / name).mkdir(parents=True)
        for number in range(4):
            save(work / "photos" / name / f"{name}{number}.jpg", 10 * label + number)
    ended = encode(*SMALL, *SD_VAE, "store=shards", "shard_size=5", cwd=work)
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads((work / "out" / "sd_vae" / "manifest.json").read_text())
    assert manifest["classes"] == ["cat", "dog", "eel"]
    assert [shard["count"] for shard in manifest["shards"]] == [5, 5, 2]
    shards = [load_file(work / "out" / "sd_vae" / shard["path"]) for shard in manifest["shards"]]
    assert np.concatenate([shard["labels"] for shard in shards]).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.concatenate([shard["latents"] for shard in shards]).shape == (12, 4, 32, 32)
    assert encode(*SMALL[:-1], "output_dir=npy", *SD_VAE, cwd=work).returncode == 0
    for row, key in enumerate(
        f"{name}/{name}{number}" for name in manifest["classes"] for number in range(4)
    ):
        latent = np.load(work / "npy" / "sd_vae" / f"{key}.npy")
        assert np.array_equal(shards[row // 5]["latents"][row % 5], latent)


def test_three_hundred_photos_with_ten_bad_ones(tmp_path: Path) -> None:
    """290 done, 10 in the ledger with their true reasons, exit status 3; then the share decides."""
    work = tmp_path / "work"
    photos = work / "photos"
    photos.mkdir(parents=True)
    sizes = [(60, 80), (80, 60), (64, 64), (50, 100)]
    for number in range(290):
        save(photos / f"p{number:03d}.jpg", number, *sizes[number % 4])
    whole = (photos / "p000.jpg").read_bytes()
    bad = {
        "b0.jpg": (b"", "empty"),
        "b1.jpg": (whole[: len(whole) // 2], "premature end"),
        "b2.jpg": (whole[:200] + bytes(len(whole) - 200), ""),
        "b3.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "html"),
        "b4.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), ""),
        "b5.gif": (b"GIF89a" + bytes(7), ""),
        "b6.webp": (b"RIFF\x10\x00\x00\x00WEBPVP8 ", ""),
        "b7.jpg": (b"not a picture at all", "not a JPEG"),
        "b8.png": (png_that_claims(60000, 60000), "60000"),
        "b9.jpg": (b"\xff\xd8\xff\xe0" + bytes(100), ""),
    }
    for name, (content, _) in bad.items():
        (photos / name).write_bytes(content)
    arguments = (*SMALL, *SD_VAE, "encoders.sd_vae.size=32")
    ended = encode(*arguments, "max_failures=0.05", cwd=work)
    assert ended.returncode == 3, ended.stderr
    assert done(work / "out") == {"sd_vae": 290}
    entries = [json.loads(line) for line in (work / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in entries] == [f"b{n}" for n in range(10)]
    for entry, (content, reason) in zip(entries, bad.values(), strict=True):
        assert entry["stage"] == "decode"
        assert reason.lower() in entry["reason"].lower()
        assert len(entry["reason"]) > 4
        assert entry["size"] == len(content)
    assert "10 in quarantine.jsonl" in ended.stderr

    again = encode(*arguments, "max_failures=0.05", cwd=work)
    assert again.returncode == 3
    assert "nothing to do" in again.stderr
    save(photos / "b0.jpg", 1000)  # mended
    assert encode(*arguments, "max_failures=0.05", cwd=work).returncode == 3
    assert done(work / "out") == {"sd_vae": 1}
    assert len((work / "out" / "quarantine.jsonl").read_text().splitlines()) == 9

    shutil.rmtree(work / "out")
    stopped = encode(*arguments, cwd=work)
    assert stopped.returncode == 1
    assert "max_failures=0.01" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def png_that_claims(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_the_photo_library(tmp_path: Path) -> None:
    """dataset=crawlr: links in data/approved, captions from the records, Stage 2 names."""
    work = tmp_path / "work"
    raw, approved, derived = (work / "data" / name for name in ("raw", "approved", "derived"))
    for folder in (raw, approved, derived):
        folder.mkdir(parents=True)
    for number in range(4):
        save(raw / f"abc{number}.tmp.jpg", number)
        (raw / f"abc{number}.tmp.jpg").rename(raw / f"abc{number}")
        (approved / f"abc{number}.jpg").symlink_to(f"../raw/abc{number}")
    records = derived / "approved_image_dataset.jsonl"
    lines = [
        {"image_path": f"data/approved/abc{n}.jpg", "caption": f"caption {n}", "image_id": f"abc{n}", "x": n}
        for n in range(3)
    ]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    few = [f"encoders.{name}.batch_size=2" for name in ("dinov3", "flux_vae", "t5")]
    ended = encode("dataset=crawlr", "vram=high", "weights=random", *few, cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in derived.iterdir() if path.is_dir()} == {
        "dinov3",
        "vae_latents",
        "t5_hidden",
        ".latentkit",
    }
    after = [json.loads(line) for line in records.read_text().splitlines()]
    assert [record["image_path"] for record in after] == [f"data/approved/abc{n}.jpg" for n in range(4)]
    assert [record.get("x") for record in after] == [0, 1, 2, None]
    assert after[1]["caption"] == "caption 1"
    assert sorted(path.name for path in (derived / "t5_hidden").glob("*.npy")) == [
        f"abc{n}.npy" for n in range(3)
    ]
    assert len(list((derived / "vae_latents").glob("*.npy"))) == 4


def test_the_imagenet_tree(tmp_path: Path) -> None:
    work = tmp_path / "work"
    root = work / "outputs" / "datasets" / "imagenet1k_raw" / "val"
    for wnid in ("n01440764", "n01443537"):
        (root / wnid).mkdir(parents=True)
    for number in range(5):
        wnid = "n01443537" if number % 2 else "n01440764"
        save(root / wnid / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    ended = encode("dataset=imagenet_tree", "vram=low", "weights=random", "shard_size=3", cwd=work)
    assert ended.returncode == 0, ended.stderr
    out = work / "outputs" / "datasets" / "imagenet1k_val_sdvae_latents_shards"
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["dataset"], manifest["split"], manifest["total"]) == ("imagenet", "val", 5)
    assert manifest["contract"]["input"]["orientation"] != "exif"
    labels = np.concatenate([load_file(out / shard["path"])["labels"] for shard in manifest["shards"]])
    assert labels.tolist() == [0, 0, 0, 1, 1]
