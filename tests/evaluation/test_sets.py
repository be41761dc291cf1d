"""What an evaluation reads, against independent readings of the same files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encode_process import encode
from PIL import Image
from recipes import photo
from safetensors.numpy import load_file
from set_contents import SCALED, SD, STORED, Published, everything, same
from store_run import run

from latentkit.encoders import ContractError, Random
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.compatibility import Decodable
from latentkit.evaluation.picture_set import FirstOf
from latentkit.evaluation.sets.latents import Reconstructions
from latentkit.evaluation.sets.open import open_own, open_set
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.step import PictureBatches
from latentkit.pixels import AdmCrop, Pillow, ResizeSquare
from latentkit.sources import First, FolderSource

CROP = AdmCrop(size=32)
BROKEN = "b/cut"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/: eight pictures of three sizes, one of them broken; shards/ and npy/: their latents."""
    folder = tmp_path_factory.mktemp("sets") / "work"
    for number in range(7):
        path = folder / "photos" / f"{'ab'[number % 2]}/p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(number, 40 + 4 * (number % 3), 48)).save(path)
    (folder / "photos" / f"{BROKEN}.png").write_bytes((folder / "photos/b/p1.png").read_bytes()[:200])
    shared = ("dataset=folder", "dataset.root=photos", "encoder=sd_vae", "weights=random")
    shared += ("encoders.sd_vae.size=32", "max_failures=0.5", "workers=0")
    for store, option in (("shards", "shard_size=3"), ("npy", "encoders.sd_vae.posterior=moments")):
        ended = encode(*shared, f"store={store}", f"output_dir={store}", option, cwd=folder)
        assert ended.returncode == 3, ended.stderr
    return folder


@pytest.fixture
def photos(work: Path) -> FolderSource:
    return FolderSource(root=str(work / "photos"))


def shard_rows(folder: Path) -> dict[str, np.ndarray]:
    """Key -> latent, by the safetensors package."""
    rows: dict[str, np.ndarray] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        header = json.loads(file.read_bytes()[8:][: int.from_bytes(file.read_bytes()[:8], "little")])
        rows |= zip(json.loads(header["__metadata__"]["keys"]), load_file(file)["latents"], strict=True)
    return rows


def test_shards_by_key_not_by_row(tmp_path: Path) -> None:
    run(tmp_path, "shards", encoders=("vae",))
    expected = shard_rows(tmp_path)
    assert list(expected) != sorted(expected)
    for path in (tmp_path, tmp_path / "vae", tmp_path / "vae/manifest.json"):
        opened = open_set(str(path), SD)
        assert list(opened.keys) == sorted(expected)
        assert (opened.latents.scale, opened.latents.shift, opened.latents.pretrained) == (1, 0, False)
        same(everything(opened, 25), expected)
    (some,) = PictureBatches(opened, np.array([4, 30, 57]), 9)
    for position, latent in zip([4, 30, 57], some.stored.numpy(), strict=True):
        np.testing.assert_array_equal(latent, expected[opened.keys[position]])


def test_latents_as_encode_left_them(work: Path) -> None:
    shards = open_set(str(work / "shards"), SD)
    same(everything(shards), shard_rows(work / "shards"))
    files = {path: np.load(path) for path in sorted((work / "npy/sd_vae").rglob("*.npy"))}
    expected = {
        str(path.relative_to(work / "npy/sd_vae"))[:-4]: moments[:4] for path, moments in files.items()
    }
    for path in (work / "npy", work / "npy/sd_vae"):
        means = open_set(str(path), SD)
        assert means.latents.channels == 4
        same(everything(means), expected)
    assert list(means.keys) == list(shards.keys)
    assert len(means.keys) == 7
    assert BROKEN not in means.keys
    np.testing.assert_allclose(everything(means)["a/p0"], everything(shards)["a/p0"], atol=2e-3)


def test_a_picture_in_quarantine_has_no_latent_though_a_file_is_left(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "npy", tmp_path / "npy")
    shutil.copy(tmp_path / "npy/sd_vae/a/p0.npy", tmp_path / f"npy/sd_vae/{BROKEN}.npy")
    opened = open_set(str(tmp_path / "npy"), SD)
    assert BROKEN not in opened.keys
    assert len(opened) == 7


def cropped(work: Path, key: str) -> np.ndarray:
    return CROP(Pillow(orient=True, strict=True)((work / f"photos/{key}.png").read_bytes()).pixels)


@pytest.mark.parametrize("store", ["shards", "npy"])
@pytest.mark.parametrize("workers", [0, 2])
def test_reconstructions_beside_their_pictures(
    work: Path, photos: FolderSource, store: str, workers: int
) -> None:
    opened = open_own(str(work / store), SD, photos, "photos")
    latents = everything(open_set(str(work / store), SD))
    assert opened.left_out == 1
    same(everything(opened.pictures), {key: cropped(work, key) for key in latents})
    same(everything(opened, workers=workers), latents)
    for batch in PictureBatches(opened, np.array([1, 2, 6]), 2, originals=True, workers=workers):
        for position, original in zip(batch.positions.tolist(), batch.originals.numpy(), strict=True):
            np.testing.assert_array_equal(original, cropped(work, opened.keys[position]))


def test_reconstructions_that_do_not_fit(work: Path, photos: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"input\.resize = 'shorter side'.* prepared with 'squash'"):
        open_own(str(work / "shards"), SD, photos, "photos", ResizeSquare(size=32))
    with pytest.raises(ContractError, match=r"input\.size = 32, .* prepared with 16"):
        open_own(str(work / "shards"), SD, photos, "photos", AdmCrop(size=16))
    with pytest.raises(ContractError, match=r"input\.orientation = 'exif'"):
        open_own(str(work / "shards"), SD, FolderSource(root=str(work / "photos"), orient=False), "photos")
    few = SourcePictures(First(photos, 3), CROP, "photos")
    latents = open_set(str(work / "shards"), SD)
    with pytest.raises(LatentkitError, match=r"latents of 4 pictures that photos lacks: a/p6, .* and 1 more"):
        Reconstructions(latents, few)
    with pytest.raises(UsageError, match=r"holds no latents: run python -m latentkit\.encode"):
        open_own(str(tmp_path), SD, photos, "photos")


def test_a_folder_of_pictures(work: Path, tmp_path: Path) -> None:
    expected = {}
    for number, size in enumerate([(20, 30), (30, 20), (20, 30), (20, 30), (30, 20)]):
        pixels = photo(number, *size)
        path = tmp_path / f"x{number % 2}/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        expected[f"x{number % 2}/{number}"] = pixels
    opened = open_set(str(tmp_path), SD)
    for workers in (0, 2):
        same(everything(opened, workers=workers), expected)
    crop = open_set(str(tmp_path), SD, AdmCrop(size=16))
    for key, pixels in everything(crop, 5).items():
        np.testing.assert_array_equal(pixels, AdmCrop(size=16)(expected[key]))
    first = FirstOf(opened, 3)
    assert set(everything(first)) == {"x0/0", "x0/2", "x0/4"}
    identities = [opened.identity, crop.identity, first.identity]
    os.utime(tmp_path / "x0/2.png", ns=(1, 1))
    identities.append(open_set(str(tmp_path), SD).identity)
    assert len({json.dumps(identity, sort_keys=True) for identity in identities}) == 4
    with pytest.raises(UsageError, match="limit=1"):
        FirstOf(opened, 1)


def test_unreadable_pictures_are_named(work: Path, tmp_path: Path, photos: FolderSource) -> None:
    with pytest.raises(LatentkitError, match=r"photos/b/cut\.png: .*mend or remove"):
        everything(SourcePictures(photos, CROP, "photos"))
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(b"" if number else (work / "photos/a/p0.png").read_bytes())
    for workers in (0, 2):
        with pytest.raises(LatentkitError) as refusal:
            everything(open_set(str(tmp_path), SD), workers=workers)
        assert [f"/{number}.png" in str(refusal.value) for number in range(6)] == [
            False, True, True, True, False, False,
        ]  # fmt: skip


def test_one_shard_of_many(work: Path, tmp_path: Path) -> None:
    shard = next(iter(sorted((work / "shards").rglob("*.safetensors"))))
    opened = open_set(str(shard), SD)
    rows = shard_rows(work / "shards")
    assert list(opened.keys) == sorted(rows)[:3]
    same(everything(opened), {key: rows[key] for key in opened.keys})
    with pytest.raises(ContractError, match="scaled = False: leave generated_scaled out"):
        open_set(str(shard), SCALED)
    alone = tmp_path / shard.name
    alone.write_bytes(shard.read_bytes())
    with pytest.raises(UsageError, match="generated_scaled"):
        open_set(str(alone), SD)
    assert open_set(str(alone), STORED).latents.pretrained


def test_contracts_of_other_models(work: Path) -> None:
    for path in (work / "shards", work / "shards/sd_vae", work / "npy/sd_vae"):
        with pytest.raises(ContractError, match=r"4 (latent )?channels.*decoder takes 16"):
            open_set(str(path), Decodable(replace(SD.decoder, architecture={"latent_channels": 16})))
        with pytest.raises(ContractError, match=r"pretrained = False.*weights=random"):
            open_set(str(path), Decodable(Published(model="none", weights=Random())))
        with pytest.raises(UsageError, match="holds latents: pictures are needed"):
            open_set(str(path), None)
