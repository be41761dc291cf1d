"""The source over the archives: keys, labels, order and bytes of the extracted tree, from any process."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from miniature_imagenet import CMYK, GREY, PNG, WNIDS, WORDS, Miniature, write_miniature
from rich.console import Console

from latentkit.errors import LatentkitError, UsageError
from latentkit.imagenet.job import Preparation
from latentkit.imagenet.recognition import find_archives
from latentkit.pixels import Pillow
from latentkit.sources import First, ImageNetArchive, ImageNetTree, SourceError
from latentkit.sources.imagenet.index import Index, IndexedArchive, read_index
from latentkit.sources.imagenet.official import OFFICIAL


@pytest.fixture
def miniature(tmp_path: Path) -> Miniature:
    """Prepared; indexes in tmp/out."""
    miniature = write_miniature(tmp_path / "data")
    archives = find_archives(miniature.folder, {}, OFFICIAL)
    Preparation(archives, tmp_path / "out", True, Console(quiet=True)).run()
    return miniature


def archive(miniature: Miniature, split: str) -> ImageNetArchive:
    index = miniature.folder.parent / "out" / f"imagenet1k_{split}_index.safetensors"
    return ImageNetArchive(index=str(index), split=split)


@pytest.mark.parametrize("split", ["train", "val"])
def test_it_is_the_tree(miniature: Miniature, split: str, tmp_path: Path) -> None:
    for name, content in miniature.files().items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    source, tree = archive(miniature, split), ImageNetTree(root=str(tmp_path / "tree"), split=split)
    assert len(source) == len(tree) == {"train": 600, "val": 60}[split]
    assert list(source.keys()) == list(tree.keys())
    for index in range(len(tree)):
        assert (source[index].key, source[index].label) == (tree[index].key, tree[index].label)
        assert source.read(index)[0] == tree.read(index)[0]
    assert source.classes == tree.classes
    assert (source.orient, source.strict, source.ignored) == (tree.orient, tree.strict, tree.ignored)
    assert source.class_names == tuple(WORDS[wnid] for wnid in sorted(WNIDS))
    assert First(source, 3).class_names == source.class_names


def test_fingerprints_and_places(miniature: Miniature) -> None:
    source = archive(miniature, "train")
    data, stat = source.read(0)
    assert stat == source.stat(0)
    assert (stat.size, stat.mtime_ns) == (len(data), miniature.train_tar.stat().st_mtime_ns)
    wnid, name = source[0].key.split("/")[1:]
    assert source[0].location == f"{miniature.train_tar}/{wnid}.tar/{name}.JPEG"


def test_odd_pictures_decode(miniature: Miniature) -> None:
    source = archive(miniature, "train")
    notes = {}
    for odd in (CMYK, PNG, GREY):
        name = list(miniature.train[WNIDS[0]])[odd].removesuffix(".JPEG")
        index = list(source.keys()).index(f"train/{WNIDS[0]}/{name}")
        picture = Pillow(orient=False, strict=False)(source.read(index)[0])
        assert picture.image.mode == "RGB"
        notes[odd] = picture.notes
    assert "cmyk" in notes[CMYK]
    assert "greyscale" in notes[GREY]


def _read(source: ImageNetArchive, index: int) -> bytes:
    return source.read(index)[0]


def test_workers_open_the_archive_themselves(miniature: Miniature) -> None:
    source = archive(miniature, "val")
    source.read(0)
    expected = [source.read(index)[0] for index in range(60)]
    assert len(pickle.dumps(source)) < 100_000  # neither columns nor descriptors travel
    for way in ("fork", "forkserver"):
        with ProcessPoolExecutor(2, get_context(way)) as pool:
            assert list(pool.map(_read, [source] * 60, range(60))) == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_read, [pickle.loads(pickle.dumps(source))] * 60, range(60))) == expected


def test_descriptors_are_closed(miniature: Miniature) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        archive(miniature, "val").read(3)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_archive_that_changed_is_noticed(miniature: Miniature) -> None:
    source = archive(miniature, "val")
    os.utime(miniature.val_tar, ns=(0, 0))
    with pytest.raises(SourceError, match=r"has changed since it was indexed: run .*prepare again"):
        source.read(0)
    with pytest.raises(UsageError, match="prepare again"):
        archive(miniature, "val")
    miniature.val_tar.unlink()
    with pytest.raises(
        UsageError, match=r"_img_val\.tar: no such file: run .*prepare again, with archives\.val="
    ):
        archive(miniature, "val")


def test_an_index_that_changes_under_a_run_is_noticed(miniature: Miniature) -> None:
    source = archive(miniature, "val")
    state = pickle.dumps(source)
    os.utime(source.index, ns=(0, 0))
    with pytest.raises(UsageError, match="has changed since this run began"):
        pickle.loads(state)


def test_what_is_wrong_is_said(miniature: Miniature, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'test': choose from train, val"):
        ImageNetArchive(index="x", split="test")
    with pytest.raises(UsageError, match=r"absent does not exist: run .*prepare first .*imagenet_tree"):
        ImageNetArchive(index=str(tmp_path / "absent"))
    val = archive(miniature, "val").index
    with pytest.raises(UsageError, match="is the index of val, not of train"):
        ImageNetArchive(index=val, split="train")
    whole = Path(val).read_bytes()
    for damaged in (b"", whole[:-1], whole[:50], b"\xff" * 100, whole + b"x", whole.replace(b"I16", b"U16")):
        Path(val).write_bytes(damaged)
        with pytest.raises(LatentkitError, match=r"is no index of ImageNet: .*remove it and run"):
            ImageNetArchive(index=val)


def test_an_index_of_all_of_imagenet_is_small_and_mapped(tmp_path: Path) -> None:
    n, rng = 1_281_167, np.random.default_rng(0)
    columns = {
        "offset": np.arange(n, dtype=np.int64) * 111_000,
        "length": rng.integers(1, 2**20, n, dtype=np.int32),
        "label": np.sort(rng.integers(0, 1000, n)).astype(np.int16),
        "number": rng.integers(0, 2**17, n, dtype=np.int32),
    }
    classes = tuple(f"n{k:08d}" for k in range(1000))
    identity = IndexedArchive("train.tar", 1, 2, "md5", "sha256")
    index = Index("train", identity, "devkit", classes, tuple("a few words" for _ in classes), **columns)
    path = tmp_path / "index.safetensors"
    path.write_bytes(index.content())
    assert path.stat().st_size < 100e6
    mapped = read_index(path)
    for name, column in columns.items():
        assert np.array_equal(getattr(mapped, name), column)
        assert isinstance(getattr(mapped, name).base, np.memmap)
    assert (mapped.archive, mapped.classes, mapped.class_names) == (identity, classes, index.class_names)
