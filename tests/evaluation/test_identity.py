"""What sets on disk are told apart by: place, names, sizes and times, without reading pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniature_imagenet import write_miniature
from rich.console import Console
from set_contents import SD
from store_run import run

from latentkit.evaluation.sets.open import open_set
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.sets.tensor_files import MAX_HASHED, file_identity
from latentkit.imagenet.job import Preparation
from latentkit.imagenet.recognition import find_archives
from latentkit.sources import ApprovedSource, FolderSource, ImageNetArchive, ImageNetTree, Source
from latentkit.sources.imagenet.official import OFFICIAL


def folder(work: Path) -> None:
    for name in ("photos/b/1.png", "photos/a.png", "photos/b/2.JPG"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(name.encode())


def library(work: Path) -> None:
    for name in ("data/raw", "data/approved"):
        (work / name).mkdir(parents=True)
    for name in ("p.jpg", "q.png"):
        (work / "data/raw" / name).write_bytes(b"photo")
        (work / "data/approved" / name).symlink_to(f"../raw/{name}")


def tree(work: Path) -> None:
    for wnid in ("n01440764", "n01443537"):
        (work / "train" / wnid).mkdir(parents=True)
        (work / "train" / wnid / f"{wnid}_7.JPEG").write_bytes(b"photo")


def archives(work: Path) -> None:
    write_miniature(work / "tars")


def archived(work: Path, split: str) -> ImageNetArchive:
    indexes = work.parent / f"{work.name} indexes"
    Preparation(find_archives(work / "tars", {}, OFFICIAL), indexes, True, Console(quiet=True)).run()
    return ImageNetArchive(index=str(indexes / f"imagenet1k_{split}_index.safetensors"), split=split)


SOURCES: dict[str, tuple[Callable[[Path], None], Callable[[Path], Source]]] = {
    "folder": (folder, lambda work: FolderSource(root=str(work / "photos"))),
    "library": (
        library,
        lambda work: ApprovedSource(root=str(work / "data/approved"), raw=str(work / "data/raw")),
    ),
    "tree": (tree, lambda work: ImageNetTree(root=str(work), split="train")),
    "train archive": (archives, lambda work: archived(work, "train")),
    "val archive": (archives, lambda work: archived(work, "val")),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_pictures_are_those_in_the_same_place(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, source = SOURCES[kind]

    def identity(work: Path) -> dict[str, Any]:
        return SourcePictures(source(work), None, "photos").identity

    make(tmp_path / "work")
    shutil.copytree(tmp_path / "work", tmp_path / "copy", symlinks=True)
    (tmp_path / "link").symlink_to("work")
    monkeypatch.chdir(tmp_path / "copy")
    here, copy = identity(tmp_path / "work"), identity(tmp_path / "copy")
    assert here["files"] == copy["files"]
    assert here["place"] != copy["place"]
    for same_place in (tmp_path / "link", Path("../work")):
        assert identity(same_place) == here
    assert identity(Path("../copy")) == copy


def test_a_home_and_an_archive_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    identities = [
        SourcePictures(FolderSource(root=root), None, "photos").identity
        for root in ("~/photos", str(tmp_path / "photos"))
    ]
    assert identities[0] == identities[1]
    write_miniature(tmp_path / "disk/tars")
    (tmp_path / "work/tars").mkdir(parents=True)
    for archive in (tmp_path / "disk/tars").iterdir():
        (tmp_path / "work/tars" / archive.name).symlink_to(archive)
    found = SourcePictures(archived(tmp_path / "work", "val"), None, "val").identity
    assert found["place"] == str((tmp_path / "disk/tars/ILSVRC2012_img_val.tar").resolve())


def test_latents_of_equal_names_sizes_and_times_in_another_place(tmp_path: Path) -> None:
    run(tmp_path / "here", "npy", encoders=("vae",))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    (tmp_path / "link").symlink_to("here")
    here, there, link = (open_set(str(tmp_path / name), SD).identity for name in ("here", "there", "link"))
    assert here["files"] == there["files"]
    assert link == here != there


def test_large_files_are_told_by_place_size_and_time(tmp_path: Path) -> None:
    """Sparse files: nothing of them lies on the disk."""
    for name in ("a/x.npz", "b/x.npz"):
        (tmp_path / name).parent.mkdir()
        with (tmp_path / name).open("wb") as file:
            file.truncate(MAX_HASHED + 1)
        os.utime(tmp_path / name, ns=(5, 5))
    (tmp_path / "link.npz").symlink_to("a/x.npz")
    whole = file_identity(tmp_path / "a/x.npz")
    assert file_identity(tmp_path / "link.npz") == whole != file_identity(tmp_path / "b/x.npz")
    os.utime(tmp_path / "a/x.npz", ns=(6, 6))
    assert file_identity(tmp_path / "a/x.npz") != whole
