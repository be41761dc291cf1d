"""Tars that GNU tar itself wrote, as ImageNet's were: whatever the format, every picture is found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniature_imagenet import WNIDS, Miniature
from miniature_preparation import digest

from latentkit.imagenet.contents import Contents, train_contents, val_contents
from latentkit.imagenet.reading import Block, read_archive

FORMATS = {
    "gnu": ("--format=gnu",),
    "oldgnu": ("--format=oldgnu",),
    "ustar": ("--format=ustar",),
    "v7": ("--format=v7",),
    "pax": ("--format=pax",),
    "pax with a global header": ("--format=pax", "--pax-option=globexthdr.name=global,comment=anew"),
    "no names of owners": ("--owner=:2016", "--group=imagenet:2016"),  # as in the official one
    "numbers that octal cannot hold": ("--owner=x:4000000", "--mtime=1901-01-01"),
    "records of 512 bytes": ("--blocking-factor=1",),
    "records of a megabyte": ("--blocking-factor=2000",),
}


def pack(folder: Path, out: Path, options: tuple[str, ...], *names: str) -> Path:
    """GNU tar over the names in a folder, or over the folder itself."""
    subprocess.run(["tar", *options, "-cf", out, "-C", folder, *names], check=True)
    return out


def pictures(path: Path, parse: Callable[[Block, int], Contents]) -> dict[tuple[str, int], bytes]:
    """(wnid, number) -> the bytes at the offset found, from one reading of the archive."""
    file, found = read_archive(path, parse, lambda count: None)
    content = path.read_bytes()
    assert file.md5 == digest(path)
    return {
        (found.wnids[k] if found.wnids else "", number): content[start : start + length]
        for k, number, start, length in np.reshape(found.numbers, (-1, 4)).tolist()
    }


@pytest.mark.parametrize("whole_folder", [False, True], ids=["names", "folder"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str, whole_folder: bool, pristine: Miniature, tmp_path: Path) -> None:
    options = FORMATS[kind]
    expected = {}
    (tmp_path / "train").mkdir()
    for wnid in WNIDS[:3]:
        folder = tmp_path / wnid
        folder.mkdir()
        for name, content in pristine.train[wnid].items():
            (folder / name).write_bytes(content)
            expected[wnid, int(name.removesuffix(".JPEG").partition("_")[2])] = content
        names = ["."] if whole_folder else list(pristine.train[wnid])
        pack(folder, tmp_path / "train" / f"{wnid}.tar", options, *names)
    names = ["."] if whole_folder else [f"{wnid}.tar" for wnid in WNIDS[:3]]
    train = pack(tmp_path / "train", tmp_path / "train.tar", options, *names)
    assert pictures(train, train_contents) == expected

    (tmp_path / "val").mkdir()
    for name, content in pristine.val.items():
        (tmp_path / "val" / name).write_bytes(content)
    val = pack(tmp_path / "val", tmp_path / "val.tar", options, *(["."] if whole_folder else pristine.val))
    found = pictures(val, val_contents)
    assert found == {("", int(name[15:23])): content for name, content in pristine.val.items()}
