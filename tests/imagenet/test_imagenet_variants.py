"""Archives that are not the official ones stop, and say what they look like."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from miniature_imagenet import WNIDS, Miniature, add, tar_bytes
from miniature_preparation import digest, preparation
from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.imagenet.job import index_path, read_provenance
from latentkit.sources.imagenet.index import read_index
from latentkit.sources.imagenet.official import Official


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
    "a gzip file that holds ILSVRC2012_val_": gzipped,
    "a gzip file: download ILSVRC2012_img_val.tar while logged in to image-net.org": lambda miniature: (
        gzipped(miniature)[:20]
    ),
    "the face-blurred variant (val_blurred/": lambda miniature: gzip.compress(blurred(miniature)),
    "the test pictures (": lambda miniature: tar_bytes({"ILSVRC2012_test_00000001.JPEG": b"x"}),
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


TREE = "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG"


@pytest.mark.parametrize("packed_as", [bytes, gzip.compress])
def test_a_packed_tree_can_be_unpacked(
    packed_as: Callable[[bytes], bytes], miniature: Miniature, official: dict[str, Official]
) -> None:
    miniature.train_tar.write_bytes(packed_as(tar_bytes({TREE: b"x"})))
    text = refusal(miniature, official, "train")
    assert f"holds {TREE}" in text
    assert "unpack it for dataset=imagenet_tree, or download ILSVRC2012_img_train.tar" in text


def test_all_that_can_be_told_without_reading_is_told_at_once(
    miniature: Miniature, official: dict[str, Official], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (miniature.train_tar, miniature.val_tar, miniature.devkit):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    job = preparation(miniature, official)
    job.console = Console(soft_wrap=True)
    with pytest.raises(LatentkitError, match=r"_devkit_t12\.tar\.gz is not ILSVRC2012's devkit"):
        job.run()
    val, train = capsys.readouterr().out.splitlines()
    for role, line in (("val", val), ("train", train)):
        assert line.startswith(f"latentkit: {miniature.folder}/{official[role].filename} is not the official")
        assert "bytes are missing): download it again" in line
