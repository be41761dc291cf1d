"""Latents beside the pictures that they were made from: what has changed in between is noticed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encode_process import encode
from PIL import Image
from recipes import photo
from set_contents import SD, Published, everything, same

from latentkit.encoders import ContractError, Random
from latentkit.errors import LatentkitError
from latentkit.evaluation.compatibility import Decodable
from latentkit.evaluation.picture_set import FirstOf
from latentkit.evaluation.sets.latents import Reconstructions
from latentkit.evaluation.sets.open import open_own, open_set
from latentkit.evaluation.step import PictureBatches
from latentkit.sources import FolderSource
from latentkit.stores.contract_file import read_contract

STORES = ("shards", "npy")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/: five pictures; shards/ and npy/: their latents."""
    folder = tmp_path_factory.mktemp("paired")
    (folder / "photos").mkdir()
    for number in range(5):
        Image.fromarray(photo(number, 40, 48)).save(folder / f"photos/p{number}.png", compress_level=0)
    for store in STORES:
        arguments = ("dataset=folder", "dataset.root=photos", "encoder=sd_vae", "weights=random")
        arguments += ("encoders.sd_vae.size=32", "workers=0", "shard_size=2")
        ended = encode(*arguments, f"store={store}", f"output_dir={store}", cwd=folder)
        assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture
def work(encoded: Path, tmp_path: Path) -> Path:
    shutil.copytree(encoded, tmp_path / "work", copy_function=shutil.copy2)
    return tmp_path / "work"


def opened(work: Path, store: str) -> Reconstructions:
    return open_own(str(work / store), SD, FolderSource(root=str(work / "photos")), "photos")


@pytest.mark.parametrize("store", STORES)
def test_a_picture_that_changed_since_is_named(work: Path, store: str) -> None:
    Image.fromarray(photo(9, 40, 48)).save(
        work / "photos/p3.png", compress_level=0
    )  # of the same size in bytes
    with pytest.raises(LatentkitError, match=r"changed since they were encoded: p3: run latentkit\.encode"):
        opened(work, store)


@pytest.mark.parametrize("store", STORES)
def test_a_picture_that_was_only_touched_is_the_same(work: Path, store: str) -> None:
    os.utime(work / "photos/p3.png", (1, 1))
    assert opened(work, store).unrecorded == 0


@pytest.mark.parametrize("store", STORES)
def test_without_ledgers_nobody_knows(work: Path, store: str) -> None:
    shutil.rmtree(work / store / ".latentkit")
    Image.fromarray(photo(9, 40, 48)).save(work / "photos/p3.png", compress_level=0)
    assert opened(work, store).unrecorded == 5


@pytest.mark.parametrize("store", STORES)
def test_pictures_are_read_only_where_originals_are_wanted(work: Path, store: str) -> None:
    pairs = FirstOf(opened(work, store), 4)
    for path in (work / "photos").iterdir():
        path.write_bytes(b"")
    assert list(pairs.keys) == ["p0", "p1", "p2", "p3"]
    whole = everything(open_set(str(work / store), SD))
    del whole["p4"]
    same(everything(pairs), whole)
    with pytest.raises(LatentkitError, match="unreadable pictures"):
        next(iter(PictureBatches(pairs, np.arange(4), 2, originals=True)))


def test_latents_of_another_autoencoder_with_as_many_channels_are_refused(work: Path) -> None:
    """Stable Diffusion XL's latents have 4 channels too; its scaling factor is 0.13025."""
    contract = replace(read_contract(work / "npy/sd_vae/contract.json"), pretrained=True)
    published = Decodable(Published(model="none", weights=Random()))
    space = published.recorded(contract, "here")
    assert (space.scale, space.shift) == (1, 0)
    of_xl = replace(contract, scaling_factor=0.13025, model="stabilityai/sdxl-vae")
    with pytest.raises(
        ContractError, match=r"\(0\.0, 0\.13025\), the decoder's are \(0\.0, 0\.18215\).*sdxl-vae"
    ):
        published.recorded(of_xl, "here")
