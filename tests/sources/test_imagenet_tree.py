"""ImageNet as extracted folders."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from latentkit.errors import UsageError
from latentkit.sources import ImageNetTree, SourceError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = {
        "train/n01440764": ["n01440764_10026.JPEG", "n01440764_7.JPEG", "n01440764_10026.jpg", "x.txt"],
        "train/n01443537": [],
        "train/n09999999": ["n09999999_1.JPEG", "ILSVRC2012_val_00000001.JPEG.bak", "n01440764_9\n.JPEG"],
        "val/n01443537": ["ILSVRC2012_val_00000293.JPEG"],
    }
    for folder, files in names.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in files:
            (tmp_path / folder / name).write_text(name)
    (tmp_path / "train/meta.mat").write_text("")
    return tmp_path


def test_items_labels_and_order(root: Path) -> None:
    source = ImageNetTree(root=str(root), split="train")
    items = [source[index] for index in range(len(source))]
    assert [(item.key, item.label) for item in items] == [
        ("train/n01440764/n01440764_10026", 0),
        ("train/n01440764/n01440764_7", 0),
        ("train/n09999999/n09999999_1", 2),
    ]
    assert source.classes == ("n01440764", "n01443537", "n09999999")
    assert source.ignored == 5
    assert (source.orient, source.strict) == (False, False)
    assert items[2].location == f"{root}/train/n09999999/n09999999_1.JPEG"
    assert items[2].caption is None
    assert [source.read(index)[0] for index in (0, 2)] == [b"n01440764_10026.JPEG", b"n09999999_1.JPEG"]
    assert source.read(1)[1] == source.stat(1)


def test_val_names_and_workers(root: Path) -> None:
    source = pickle.loads(pickle.dumps(ImageNetTree(root=str(root))))
    assert source[0].key == "val/n01443537/ILSVRC2012_val_00000293"
    assert source.read(0)[0] == b"ILSVRC2012_val_00000293.JPEG"


def test_a_picture_that_is_gone(root: Path) -> None:
    source = ImageNetTree(root=str(root))
    (root / "val/n01443537/ILSVRC2012_val_00000293.JPEG").unlink()
    assert source.stat(0) is None
    with pytest.raises(SourceError, match=r"ILSVRC2012_val_00000293\.JPEG: no such file"):
        source.read(0)


def test_what_is_wrong_is_said(root: Path) -> None:
    with pytest.raises(UsageError, match="no split 'test': choose from train, val"):
        ImageNetTree(root=str(root), split="test")
    with pytest.raises(UsageError, match="absent does not exist: expected val/<wnid>"):
        ImageNetTree(root=str(root / "absent"))
    (root / "val/n01443537/ILSVRC2012_val_00000293.JPEG").unlink()
    with pytest.raises(UsageError, match="no ImageNet picture in it"):
        ImageNetTree(root=str(root))
    (root / "val/n01443537").rmdir()
    (root / "val/ILSVRC2012_val_00000293.JPEG").write_bytes(b"")
    with pytest.raises(UsageError, match=r"in no class: sort them .*LOC_val_solution.csv.*dataset=imagenet$"):
        ImageNetTree(root=str(root))
