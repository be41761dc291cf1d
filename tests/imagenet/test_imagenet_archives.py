"""Archives found, read once, labelled and indexed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil

import pytest
from miniature_imagenet import CLASSES, IDS, WNIDS, WORDS, Miniature, tar_bytes, write_devkit
from miniature_preparation import digest, preparation

from latentkit.errors import LatentkitError, UsageError
from latentkit.imagenet.contents import GROUND_TRUTH, META, read_devkit
from latentkit.imagenet.job import index_path, provenance_path, read_provenance
from latentkit.imagenet.recognition import find_archives
from latentkit.sources.imagenet.index import read_index
from latentkit.sources.imagenet.official import OFFICIAL, Official


def test_the_official_figures() -> None:
    assert (OFFICIAL["train"].size, OFFICIAL["val"].size) == (147_897_477_120, 6_744_924_160)
    assert (OFFICIAL["train"].pictures, OFFICIAL["val"].pictures) == (1_281_167, 50_000)


def test_provenance_says_what_was_read(miniature: Miniature, official: dict[str, Official]) -> None:
    job = preparation(miniature, official)
    job.run()
    written = json.loads(provenance_path(job.output_dir).read_text())
    assert written["generated_at_utc"].endswith("+00:00")
    by_role = {archive["role"]: archive for archive in written["archives"]}
    assert list(by_role) == ["devkit", "train", "val"]
    for role, path in {
        "train": miniature.train_tar,
        "val": miniature.val_tar,
        "devkit": miniature.devkit,
    }.items():
        entry = by_role[role]
        assert (entry["path"], entry["filename"]) == (str(path), path.name)
        assert (entry["size"], entry["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert entry["md5"] == digest(path)
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["official"] is True
        assert entry["deviations"] == []
    assert (by_role["train"]["classes"], by_role["train"]["pictures"]) == (20, 600)
    assert (by_role["val"]["classes"], by_role["val"]["pictures"]) == (20, 60)


def test_the_index_is_sorted_and_labelled_by_the_sorted_wnids(
    miniature: Miniature, official: dict[str, Official]
) -> None:
    job = preparation(miniature, official)
    job.run()
    position = {wnid: label for label, wnid in enumerate(sorted(WNIDS))}
    for split, tar in (("train", miniature.train_tar), ("val", miniature.val_tar)):
        index, content = read_index(index_path(job.output_dir, split)), tar.read_bytes()
        assert index.classes == tuple(sorted(WNIDS))
        assert index.class_names == tuple(WORDS[wnid] for wnid in sorted(WNIDS))
        paths = sorted(path for path in miniature.files() if path.startswith(split))
        assert len(index.label) == len(paths)
        columns = zip(paths, index.label, index.offset, index.length, strict=True)
        for path, label, offset, length in columns:
            assert label == position[path.split("/")[1]]
            assert content[offset : offset + length] == miniature.files()[path]
    assert any(IDS[wnid] - 1 != position[wnid] for wnid in WNIDS)  # or the labels would prove nothing


def test_nothing_is_read_twice_and_a_change_is(miniature: Miniature, official: dict[str, Official]) -> None:
    job = preparation(miniature, official)
    job.run()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.output_dir.iterdir()}
    stat = miniature.train_tar.stat()
    content = bytearray(miniature.train_tar.read_bytes())
    content[5000] ^= 1  # who reads it again would notice
    miniature.train_tar.write_bytes(content)
    os.utime(miniature.train_tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    job.run()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.output_dir.iterdir()} == before
    os.utime(miniature.train_tar)
    with pytest.raises(LatentkitError, match="md5"):
        job.run()
    os.utime(miniature.train_tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(LatentkitError, match="md5"):
        preparation(miniature, official, overwrite=True).run()
    index_path(job.output_dir, "val").write_bytes(b"damaged")
    preparation(miniature, official, "devkit", "val").run()
    assert index_path(job.output_dir, "val").read_bytes() == before[index_path(job.output_dir, "val")][0]


def test_a_devkit_that_comes_later_names_the_classes_without_another_read(
    miniature: Miniature, official: dict[str, Official]
) -> None:
    job = preparation(miniature, official)
    job.run()
    path = index_path(job.output_dir, "train")
    whole = path.read_bytes()
    path.unlink()
    provenance_path(job.output_dir).unlink()
    without = preparation(miniature, official, "train")
    without.run()
    assert read_index(path).class_names == ()
    stat = miniature.train_tar.stat()
    miniature.train_tar.write_bytes(bytes(stat.st_size))
    os.utime(miniature.train_tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    preparation(miniature, official, "train", "devkit").run()
    assert path.read_bytes() == whole


def test_what_cannot_be_done_without_what(miniature: Miniature, official: dict[str, Official]) -> None:
    only_val = preparation(miniature, official, "val")
    with pytest.raises(UsageError, match=r"no ILSVRC2012_devkit_t12\.tar\.gz: val is left out"):
        only_val.run()
    assert not only_val.output_dir.exists()
    job = preparation(miniature, official, "val", "devkit")
    assert job.lacking() == ["no ILSVRC2012_img_train.tar: dataset.split=train cannot be encoded"]
    assert [archive.role for archive in job.run()] == ["devkit", "val"]
    preparation(miniature, official, "train").run()
    assert list(read_provenance(job.output_dir)) == ["devkit", "train", "val"]  # val was read all the same
    assert preparation(miniature, official, "train").splits == ["train"]
    with pytest.raises(UsageError, match="nothing to prepare"):
        preparation(miniature, official, "devkit").run()


def test_a_validation_picture_without_a_label(miniature: Miniature, official: dict[str, Official]) -> None:
    write_devkit(miniature.devkit, [1] * 59)
    with pytest.raises(LatentkitError, match="holds validation picture 60, and the devkit has 59 labels"):
        preparation(miniature, official, "val", "devkit", allow_variant=True).run()


def test_the_devkit_s_labels_and_names(pristine: Miniature) -> None:
    devkit = read_devkit(pristine.devkit)
    assert devkit.classes == tuple(sorted(WNIDS))
    assert len(devkit.class_names) == CLASSES
    wnids = [devkit.classes[label] for label in devkit.val_labels]
    assert wnids == [pristine.val_wnid[f"ILSVRC2012_val_{k:08d}.JPEG"] for k in range(1, 61)]


def test_damaged_devkits(miniature: Miniature) -> None:
    whole = miniature.devkit.read_bytes()
    unpacked = gzip.decompress(whole)
    damage = {
        "cut": whole[: len(whole) // 2],
        "a page": b"<html>",
        "not compressed": unpacked,
        "no tar": gzip.compress(b"x" * 2000),
        "no meta.mat": gzip.compress(tar_bytes({"ILSVRC2012_devkit_t12/readme.txt": b""})),
        "no MATLAB": gzip.compress(tar_bytes({META: b"nothing" * 99, GROUND_TRUTH: b"1\n"})),
        "another name": gzip.compress(unpacked.replace(b"meta.mat", b"meta.moo")),
        "a bomb": gzip.compress(bytes(2**27 + 1), 1),
    }
    for content in damage.values():
        miniature.devkit.write_bytes(content)
        with pytest.raises(LatentkitError, match=r"not ILSVRC2012's devkit: .*: download ILSVRC.*gz again"):
            read_devkit(miniature.devkit)
    for truth in ([0, 1], [CLASSES + 1]):
        write_devkit(miniature.devkit, truth)
        with pytest.raises(LatentkitError, match="the ID of no class"):
            read_devkit(miniature.devkit)


def test_files_that_are_no_devkit_are_named(miniature: Miniature) -> None:
    whole = miniature.devkit.read_bytes()
    task3 = tar_bytes({"ILSVRC2012_devkit_t3/data/meta.mat": b""})
    for content, cause in {
        b"<html>": "it is an HTML page",
        b"": "it is an empty file",
        gzip.decompress(whole): r"it is a tar that is not compressed \(some browsers",
        gzip.compress(task3): r"each once \(it begins with ILSVRC2012_devkit_t3/data/meta\.mat\)",
    }.items():
        miniature.devkit.write_bytes(content)
        with pytest.raises(LatentkitError, match=f"{cause}.*: download ILSVRC2012_devkit_t12.tar.gz again"):
            read_devkit(miniature.devkit)


def test_names_that_downloads_make_are_found(miniature: Miniature, official: dict[str, Official]) -> None:
    (miniature.folder / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(b"")
    for name in ("ILSVRC2012_img_train.tar.1", "ILSVRC2012_img_train (1).tar", "ILSVRC2012_img_train(2).tar"):
        shutil.copy(miniature.train_tar, miniature.folder / name)
        (miniature.folder / "ILSVRC2012_img_train.tar").rename(miniature.folder / "aside")
        assert find_archives(miniature.folder, {}, official)["train"].name == name
        (miniature.folder / "ILSVRC2012_img_train.tar").write_bytes(b"cut")
        assert find_archives(miniature.folder, {}, official)["train"].name == name  # that of the right size
        (miniature.folder / name).write_bytes(b"cut too")
        with pytest.raises(UsageError, match=r"give archives\.train=FILE"):
            find_archives(miniature.folder, {}, official)
        (miniature.folder / name).unlink()
        (miniature.folder / "aside").rename(miniature.folder / "ILSVRC2012_img_train.tar")
    given = find_archives(miniature.folder, {"val": str(miniature.train_tar)}, official)
    assert given["val"] == miniature.train_tar
    with pytest.raises(UsageError, match=r"archives\.val=nowhere\.tar does not exist"):
        find_archives(miniature.folder, {"val": "nowhere.tar"}, official)
    with pytest.raises(UsageError, match=r"no ImageNet archive in .*expected ILSVRC2012_devkit"):
        find_archives(miniature.folder / "empty", {}, official)
