"""Preparing ImageNet end to end, as a user types it; and encoding from archives and from the tree."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from encode_process import Ended, encode, files, kill_points, run_verb, run_with_small_files
from miniature_imagenet import WNIDS, WORDS, Miniature, tar_bytes, write_miniature
from safetensors.numpy import load_file

VARIANT = "allow_variant=true"
RUNS_OWN = {"lock", "summary.json", "run.json", "rates.json", "config.yaml", "preview.png"}
"""What legitimately differs between two runs: when they ran, how fast, of what."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return write_miniature(tmp_path_factory.mktemp("miniature") / "data")


@pytest.fixture
def work(pristine: Miniature, tmp_path: Path) -> Path:
    """tmp/work, with the archives in data/."""
    shutil.copytree(pristine.folder, tmp_path / "work" / "data")
    return tmp_path / "work"


def prepare(*arguments: str, cwd: Path, **options: int) -> Ended:
    return run_verb("prepare", *arguments, cwd=cwd, **options)


def tree(folder: Path) -> dict[str, bytes]:
    return files(folder, RUNS_OWN)


def test_from_archives_to_an_index(work: Path) -> None:
    ended = prepare(VARIANT, cwd=work)
    assert ended.returncode == 0, ended.stderr
    out = work / "outputs" / "datasets"
    assert {path.name for path in out.iterdir()} == {
        ".latentkit",
        "imagenet1k_provenance.json",
        "imagenet1k_train_index.safetensors",
        "imagenet1k_val_index.safetensors",
    }
    assert "reading ILSVRC2012_img_train.tar: 1 MB" in ended.stderr
    assert "VARIANT data/ILSVRC2012_img_train.tar:" in ended.stderr
    assert "600 pictures, not 1,281,167" in ended.stderr
    provenance = json.loads((out / "imagenet1k_provenance.json").read_text())
    assert [archive["path"] for archive in provenance["archives"]] == [
        "data/ILSVRC2012_devkit_t12.tar.gz",
        "data/ILSVRC2012_img_train.tar",
        "data/ILSVRC2012_img_val.tar",
    ]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("image*")}
    again = prepare(VARIANT, cwd=work)
    assert again.returncode == 0
    assert again.stderr.count("read before and unchanged") == 3
    assert "reading" not in again.stderr
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("image*")} == before


def test_without_allow_variant_it_stops_and_a_dry_run_touches_nothing(work: Path) -> None:
    ended = prepare("dry_run=true", cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert "train: data/ILSVRC2012_img_train.tar, 1,020.0 KiB, to read" in ended.stderr
    assert not (work / "outputs").exists()
    ended = prepare("archives.devkit=data/ILSVRC2012_devkit_t12.tar.gz", cwd=work)
    assert ended.returncode == 1
    assert "is not the official ILSVRC2012_devkit_t12.tar.gz" in ended.stderr
    assert tree(work / "outputs") == {}


def test_wrong_usage(work: Path) -> None:
    for arguments, words in {
        ("archives.test=x",): ["archives.test", "no such key"],
        ("archives.train=nowhere.tar",): ["archives.train=nowhere.tar does not exist: expected ILSVRC2012"],
        ("archives.train=data",): ["=data is a folder: give the file ILSVRC2012_img_train.tar in it, or"],
        ("archives.folder=data/ILSVRC2012_img_val.tar",): ["is a file: give archives.train=FILE"],
        ("archives.folder=nowhere",): ["no ImageNet archive in nowhere", "image-net.org"],
        ("extract=perhaps",): ["extract", "perhaps"],
    }.items():
        ended = prepare(*arguments, cwd=work)
        assert ended.returncode == 2, ended.stderr
        assert all(word in ended.stderr for word in words), ended.stderr


def test_it_says_what_is_lacking(work: Path) -> None:
    (work / "data" / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    ended = prepare(VARIANT, cwd=work)
    assert ended.returncode == 0
    assert "no ILSVRC2012_devkit_t12.tar.gz: val is left out" in ended.stderr
    ended = encode("dataset=imagenet", "weights=random", cwd=work)
    assert ended.returncode == 2
    assert "imagenet1k_val_index.safetensors does not exist: run python -m latentkit.prepare" in ended.stderr


def test_extraction_is_the_admitted_pictures_and_a_repeat_changes_nothing(
    work: Path, pristine: Miniature
) -> None:
    ended = prepare(VARIANT, "extract=true", cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.endswith("tree: outputs/datasets/imagenet1k_raw\n")
    raw = work / "outputs" / "datasets" / "imagenet1k_raw"
    found = tree(raw)
    markers = {name: json.loads(found.pop(name)) for name in list(found) if name.startswith(".latentkit")}
    assert found == pristine.files()
    train = markers[".latentkit/train.json"]
    assert (train["complete"], train["pictures"], train["classes"]) == (True, 600, 20)
    before = {path: path.stat().st_mtime_ns for path in (raw / "train", raw / "val", *raw.rglob("*.*"))}
    before.pop(raw / ".latentkit")  # the lock lies there
    again = prepare(VARIANT, "extract=true", cwd=work)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before

    name = sorted(pristine.files())[7]
    (raw / name).write_bytes(b"cut")
    (raw / sorted(pristine.files())[8]).unlink()
    assert prepare(VARIANT, "extract=true", cwd=work).returncode == 0
    assert tree(raw) == found | {key: tree(raw)[key] for key in markers}

    (raw / name).write_bytes(bytes(len(found[name])))  # as long, but of another time
    assert prepare(VARIANT, "extract=true", cwd=work).returncode == 0
    assert (raw / name).read_bytes() == found[name]

    (raw / "train" / WNIDS[0] / f"{WNIDS[0]}_999999.JPEG").write_bytes(b"from elsewhere")
    ended = prepare(VARIANT, "extract=true", cwd=work)
    assert ended.returncode == 1
    assert f"{WNIDS[0]}_999999.JPEG is not in data/ILSVRC2012_img_train.tar" in ended.stderr


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bytes(work: Path) -> None:
    small_archives(work / "data")
    first = prepare(VARIANT, "extract=true", "output_dir=clean", cwd=work)
    assert first.returncode == 0, first.stderr
    clean = tree(work / "clean")
    assert len(clean) == 3 + 2 + 12
    for point in kill_points(first.changes, 5):
        out = f"out{point}"
        arguments = (VARIANT, "extract=true", f"output_dir={out}")
        assert prepare(*arguments, cwd=work, kill_at=point).returncode == -signal.SIGKILL
        again = prepare(*arguments, cwd=work)
        assert again.returncode == 0, again.stderr
        assert tree(work / out) == clean, f"killed at call {point}"


def test_an_extraction_that_has_not_ended_is_no_tree_and_goes_on(work: Path, pristine: Miniature) -> None:
    assert prepare(VARIANT, cwd=work).returncode == 0
    ended = prepare(VARIANT, "extract=true", cwd=work, interrupt_at=60)
    assert ended.returncode == 130, ended.stderr
    assert "interrupted; the same command goes on from here" in ended.stderr
    raw = work / "outputs" / "datasets" / "imagenet1k_raw"
    assert len(list(raw.rglob("*.JPEG"))) == 60  # the batch in hand was finished, the next not begun

    killed = prepare(VARIANT, "extract=true", cwd=work, kill_at=1000)
    assert killed.returncode == -signal.SIGKILL
    assert 60 < len(list(raw.rglob("*.JPEG"))) < 660
    ended = encode("dataset=imagenet_tree", "dataset.split=train", "weights=random", cwd=work)
    assert ended.returncode == 2
    assert "is not all of the archive: run python -m latentkit.prepare extract=true" in ended.stderr
    assert prepare(VARIANT, "extract=true", cwd=work).returncode == 0
    found = tree(raw)
    assert {name: content for name, content in found.items() if name.endswith(".JPEG")} == pristine.files()
    assert not [name for name in found if name.endswith(".tmp")]


def test_a_full_disk_is_one_line_and_leaves_nothing_half(work: Path) -> None:
    ended = run_with_small_files(8, "prepare", VARIANT, cwd=work)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("latentkit: cannot write outputs/datasets/imagenet1k_train_index.safetensors")
    assert "Traceback" not in ended.stderr
    assert not [name for name in tree(work / "outputs") if "train" in name or name.endswith(".tmp")]
    assert prepare(VARIANT, cwd=work).returncode == 0


def small_archives(data: Path) -> None:
    """In place of the miniature's: three classes of three, the devkit kept."""
    pictures = {
        wnid: {f"{wnid}_{k}.JPEG": f"{wnid} {k}".encode() * 99 for k in (3, 20, 1)} for wnid in WNIDS[:3]
    }
    outer = {f"{wnid}.tar": tar_bytes(names) for wnid, names in pictures.items()}
    (data / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(outer))
    val = {f"ILSVRC2012_val_{k:08d}.JPEG": f"{k}".encode() * 999 for k in (3, 1, 2)}
    (data / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(val))


def test_encoded_from_archives_and_from_the_tree(work: Path) -> None:
    """The same keys, labels and bytes, those of the ledgers too: one goes on where the other stopped."""
    assert prepare(VARIANT, "extract=true", cwd=work).returncode == 0
    options = ("weights=random", "shard_size=25", "encoders.sd_vae.batch_size=8")
    archives = encode("dataset=imagenet", *options, "output_dir=archives", cwd=work)
    assert archives.returncode == 0, archives.stderr
    from_tree = encode("dataset=imagenet_tree", *options, "output_dir=tree", cwd=work)
    assert from_tree.returncode == 0, from_tree.stderr
    assert tree(work / "archives") == tree(work / "tree")

    manifest = json.loads((work / "archives" / "manifest.json").read_text())
    assert manifest["classes"] == sorted(WNIDS)
    assert manifest["class_names"] == [WORDS[wnid] for wnid in sorted(WNIDS)]
    assert (manifest["dataset"], manifest["split"], manifest["total"]) == ("imagenet", "val", 60)
    shards = [load_file(work / "archives" / shard["path"]) for shard in manifest["shards"]]
    assert np.concatenate([shard["labels"] for shard in shards]).tolist() == sorted([*range(20)] * 3)

    again = encode("dataset=imagenet_tree", *options, "output_dir=archives", cwd=work)
    assert "nothing to do" in again.stderr
    shutil.rmtree(work / "outputs" / "datasets" / "imagenet1k_raw")
    again = encode("dataset=imagenet", *options, "output_dir=tree", cwd=work)
    assert "nothing to do" in again.stderr
