"""Archives found, told apart, read once and indexed; what is not the official one says what it looks like."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from miniature_imagenet import (
    CLASSES,
    IDS,
    WNIDS,
    WORDS,
    Miniature,
    add,
    tar_bytes,
    write_devkit,
    write_miniature,
)
from rich.console import Console

from latentkit.errors import LatentkitError, UsageError
from latentkit.imagenet.devkit import GROUND_TRUTH, META, read_devkit
from latentkit.imagenet.find import find_archives
from latentkit.imagenet.job import Preparation
from latentkit.imagenet.official import OFFICIAL, Official
from latentkit.imagenet.provenance import index_path, provenance_path, read_provenance
from latentkit.sources.imagenet.index import read_index


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return write_miniature(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def miniature(pristine: Miniature, tmp_path: Path) -> Miniature:
    """A copy that a test may change."""
    folder = tmp_path / "data"
    shutil.copytree(pristine.folder, folder)
    return Miniature(folder, pristine.train, pristine.val, pristine.val_wnid)


@pytest.fixture
def official(pristine: Miniature) -> dict[str, Official]:
    """What the archives would have to be if the miniature were the real thing."""
    facts = {"train": (pristine.train_tar, 20, 600), "val": (pristine.val_tar, 20, 60)}
    found = {
        role: Official(path.name, digest(path), path.stat().st_size, classes, pictures)
        for role, (path, classes, pictures) in facts.items()
    }
    return found | {"devkit": Official(pristine.devkit.name, digest(pristine.devkit))}


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def preparation(
    miniature: Miniature, official: dict[str, Official], *roles: str, allow_variant: bool = False
) -> Preparation:
    archives = find_archives(miniature.folder, {}, official)
    if roles:
        archives = {role: path for role, path in archives.items() if role in roles}
    out = miniature.folder.parent / "out"
    return Preparation(archives, out, allow_variant, Console(quiet=True), official)


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
    assert preparation(miniature, official, "train").splits == ["train"]
    with pytest.raises(UsageError, match="nothing to prepare"):
        preparation(miniature, official, "devkit").run()


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_a_picture_is_found_by_the_md5(
    miniature: Miniature, official: dict[str, Official]
) -> None:
    flip(miniature.train_tar, miniature.train_tar.read_bytes().index(b"\xff\xd8\xff") + 300)
    job = preparation(miniature, official, "train")
    with pytest.raises(
        LatentkitError, match=r"md5 .* not .*looks like a damaged download.*download it again"
    ):
        job.run()
    assert not index_path(job.output_dir, "train").exists()
    assert read_provenance(job.output_dir) == {}
    (archive,) = preparation(miniature, official, "train", allow_variant=True).run()
    assert archive.official is False
    assert archive.deviations == [f"md5 {digest(miniature.train_tar)}, not {official['train'].md5}"]
    with pytest.raises(LatentkitError, match="allow_variant=true"):
        job.run()  # noted before, and refused all the same


def refusal(miniature: Miniature, official: dict[str, Official], role: str, **options: bool) -> str:
    with pytest.raises(LatentkitError) as refused:
        preparation(miniature, official, role, "devkit", **options).run()
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(f"{miniature.folder}/{official[role].filename} is not the official")
    assert not index_path(miniature.folder.parent / "out", role).exists()
    return text


def test_a_cut_download(miniature: Miniature, official: dict[str, Official]) -> None:
    whole = miniature.train_tar.read_bytes()
    with tarfile.open(miniature.train_tar) as tar:
        boundary = tar.getmembers()[7].offset
    for length in (boundary, boundary + 100, boundary + 5000, len(whole) - 20_000):
        miniature.train_tar.write_bytes(whole[:length])
        text = refusal(miniature, official, "train")
        assert f"{length:,} bytes, not {len(whole):,}" in text
        assert f"a cut download (the archive ends at byte {length:,}" in text
        assert f"{len(whole) - length:,} bytes are missing): download it again" in text
        assert "allow_variant" not in text
        assert "cut download" in refusal(miniature, official, "train", allow_variant=True)


def test_what_nobody_could_use_is_refused_as_a_variant_too(
    miniature: Miniature, official: dict[str, Official]
) -> None:
    whole = miniature.train_tar.read_bytes()
    flip(miniature.train_tar, whole.index(f"{WNIDS[4]}_".encode()))
    text = refusal(miniature, official, "train", allow_variant=True)
    assert "has no tar header at byte" in text
    assert text.endswith("It looks like a damaged download: download it again")

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo(f"{WNIDS[0]}_1.JPEG")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    outer = {f"{wnid}.tar": tar_bytes(names) for wnid, names in miniature.train.items()}
    miniature.train_tar.write_bytes(tar_bytes(outer | {f"{WNIDS[0]}.tar": file.getvalue()}))
    text = refusal(miniature, official, "train", allow_variant=True)
    assert f"{WNIDS[0]}.tar holds {WNIDS[0]}_1.JPEG, a symbolic link" in text
    assert text.endswith("It looks like an archive that was packed anew: download the official one")


def packed(miniature: Miniature, classes: dict[str, dict[str, bytes]]) -> None:
    miniature.train_tar.write_bytes(tar_bytes({f"{wnid}.tar": tar_bytes(p) for wnid, p in classes.items()}))


def test_fewer_classes_more_classes_and_other_contents(
    miniature: Miniature, official: dict[str, Official]
) -> None:
    some = dict(list(miniature.train.items())[3:])
    packed(miniature, some)
    assert "a part of it: 17 of 20 classes; allow_variant=true" in refusal(miniature, official, "train")
    (_, archive) = preparation(miniature, official, "train", "devkit", allow_variant=True).run()
    assert any("17 classes, not 20" in line for line in archive.deviations)
    assert any("510 pictures, not 600" in line for line in archive.deviations)
    assert any("not the devkit's 20" in line for line in archive.deviations)
    index = read_index(index_path(miniature.folder.parent / "out", "train"))
    assert index.classes == tuple(sorted(WNIDS))  # labels stay those of the whole
    assert index.label.min() == 3

    shutil.rmtree(miniature.folder.parent / "out")
    packed(miniature, miniature.train | {"n09999999": {"n09999999_1.JPEG": b"x"}})
    text = refusal(miniature, official, "train")
    assert "a larger set, such as ImageNet-21k: 21 classes, not 20" in text
    packed(
        miniature, {wnid: {n: b + b"." * 600 for n, b in p.items()} for wnid, p in miniature.train.items()}
    )
    text = refusal(miniature, official, "train")
    assert "the right names with other contents: packed anew, or the face-blurred variant" in text


def gzipped(miniature: Miniature) -> bytes:
    return gzip.compress(miniature.val_tar.read_bytes())


def blurred(miniature: Miniature) -> bytes:
    return tar_bytes({f"val_blurred/{WNIDS[0]}/ILSVRC2012_val_00000001.jpg": b"x"})


def repacked(miniature: Miniature) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("val")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
        add(tar, "val/ILSVRC2012_val_00000001.JPEG", b"x")
    return file.getvalue()


LOOKS = {
    "an HTML page": lambda miniature: b"\n<!DOCTYPE html><html><body>Please log in</body></html>",
    "a gzip file": gzipped,
    "a zip file": lambda miniature: b"PK\3\4" + bytes(600),
    "an empty file": lambda miniature: b"",
    "no tar": lambda miniature: b"\xff" * 5000,
    "the face-blurred variant": blurred,
    "an archive that was packed anew (the archive holds val/, a folder)": repacked,
    "the archive of the other split": lambda miniature: miniature.train_tar.read_bytes(),
    "a part of it: 2 of 60 pictures": lambda miniature: tar_bytes(dict(list(miniature.val.items())[:2])),
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_it_looks_like(look: str, miniature: Miniature, official: dict[str, Official]) -> None:
    miniature.val_tar.write_bytes(LOOKS[look](miniature))
    assert f"It looks like {look}" in refusal(miniature, official, "val")


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
        "no gzip": b"<html>",
        "no tar": gzip.compress(b"x" * 2000),
        "no meta.mat": gzip.compress(tar_bytes({"ILSVRC2012_devkit_t12/readme.txt": b""})),
        "no MATLAB": gzip.compress(tar_bytes({META: b"nothing" * 99, GROUND_TRUTH: b"1\n"})),
        "another name": gzip.compress(unpacked.replace(b"meta.mat", b"meta.moo")),
        "a bomb": gzip.compress(bytes(2**27 + 1), 1),
    }
    for content in damage.values():
        miniature.devkit.write_bytes(content)
        with pytest.raises(LatentkitError, match=r"is not ILSVRC2012's devkit: .*: download it again"):
            read_devkit(miniature.devkit)
    for truth in ([0, 1], [CLASSES + 1]):
        write_devkit(miniature.devkit, truth)
        with pytest.raises(LatentkitError, match="the ID of no class"):
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
    with pytest.raises(UsageError, match=r"archives\.val=nowhere\.tar is not a file"):
        find_archives(miniature.folder, {"val": "nowhere.tar"}, official)
    with pytest.raises(UsageError, match=r"no ImageNet archive in .*expected ILSVRC2012_devkit"):
        find_archives(miniature.folder / "empty", {}, official)
