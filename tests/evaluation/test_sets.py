"""What an evaluation reads, against independent readings of the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encode_process import encode
from PIL import Image
from recipes import photo
from safetensors.numpy import load_file
from safetensors.torch import save_file
from store_run import run

from latentkit.encoders import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.picture_set import PictureBatch, PictureSet
from latentkit.evaluation.sets.first import FirstOf
from latentkit.evaluation.sets.open import open_own, open_set
from latentkit.evaluation.sets.paired import Reconstructions
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.sets.space import Decodable
from latentkit.pixels import AdmCrop, Squash, decode
from latentkit.sources import First, FolderSource

SD = Decodable(channels=4, factor=0.18215, shift=0.5, allow_random=True)
SCALED, STORED = replace(SD, scaled=True), replace(SD, scaled=False)
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


def everything(opened: PictureSet, batch_size: int = 3, workers: int = 0) -> dict[str, np.ndarray]:
    """Key -> latent or pixels; every position once, no batch too large, all of the set's description kept."""
    found = {}
    for batch in opened.batches(np.arange(len(opened)), batch_size, workers):
        assert batch.positions.dtype == np.int64
        assert 0 < len(batch.positions) <= batch_size
        tensor = batch.latents if opened.latents else batch.pixels
        assert (batch.pixels is None) == (opened.latents is not None)
        assert (batch.originals is not None) == opened.paired
        for position, row in zip(batch.positions.tolist(), tensor.numpy(), strict=True):
            assert opened.keys[position] not in found
            found[opened.keys[position]] = row
    assert sorted(found) == list(opened.keys)
    return found


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, key)


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
        assert (opened.latents.factor, opened.latents.shift, opened.latents.pretrained) == (1, 0, False)
        same(everything(opened, 25), expected)
    some = next(iter(opened.batches(np.array([4, 30, 57]), 9, 0)))
    for position, latent in zip([4, 30, 57], some.latents.numpy(), strict=True):
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
    return CROP(decode((work / f"photos/{key}.png").read_bytes(), orient=True, strict=True).image)


@pytest.mark.parametrize("store", ["shards", "npy"])
@pytest.mark.parametrize("workers", [0, 2])
def test_reconstructions_beside_their_pictures(
    work: Path, photos: FolderSource, store: str, workers: int
) -> None:
    opened = open_own(str(work / store), SD, photos, "photos")
    latents = everything(open_set(str(work / store), SD))
    assert opened.left_out == 1
    same(everything(opened.pictures), {key: cropped(work, key) for key in latents})
    assert opened.paired
    same(everything(opened, workers=workers), latents)
    for batch in opened.batches(np.array([1, 2, 6]), 2, workers):
        for position, original in zip(batch.positions.tolist(), batch.originals.numpy(), strict=True):
            np.testing.assert_array_equal(original, cropped(work, opened.keys[position]))


def test_reconstructions_that_do_not_fit(work: Path, photos: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"input\.resize = 'shorter side'.* prepared with 'squash'"):
        open_own(str(work / "shards"), SD, photos, "photos", Squash(size=32))
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
        np.testing.assert_array_equal(pixels, AdmCrop(size=16)(Image.fromarray(expected[key])))
    first = FirstOf(opened, 3)
    assert set(everything(first)) == {"x0/0", "x0/2", "x0/4"}
    identities = [opened.identity(), crop.identity(), first.identity()]
    os.utime(tmp_path / "x0/2.png", ns=(1, 1))
    identities.append(open_set(str(tmp_path), SD).identity())
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


LATENTS = np.random.default_rng(0).standard_normal((7, 4, 3, 2)).astype(np.float32)
PIXELS = np.random.default_rng(1).integers(0, 256, (7, 6, 5, 3)).astype(np.uint8)


def saved(folder: Path, array: np.ndarray, kind: str, name: str = "samples") -> str:
    """The array in a file of a kind."""
    path = folder / f"file{kind.partition(':')[0]}"
    if kind == ".npy":
        np.save(path, array)
    elif kind == ".npz":
        np.savez(path, **{name: array}, labels=np.arange(7))
    elif kind == ".npz:compressed":
        np.savez_compressed(path, **{name: array}, labels=np.arange(7))
    elif kind == ".safetensors":
        save_file({"labels": torch.arange(7), name: torch.from_numpy(array)}, path)
    elif kind == ".pt":
        torch.save(torch.from_numpy(array), path)
    else:
        torch.save({name: torch.from_numpy(array)}, path, _use_new_zipfile_serialization=False)
    return str(path)


KINDS = [".npy", ".npz", ".npz:compressed", ".safetensors", ".pt", ".pth"]


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_files(tmp_path: Path, kind: str) -> None:
    for array in (LATENTS, LATENTS.astype(np.float16), LATENTS.astype(np.float64)):
        opened = open_set(saved(tmp_path, array, kind), SCALED)
        assert (opened.latents.factor, opened.latents.shift) == (0.18215, 0.5)
        same(everything(opened), {str(row): latent for row, latent in enumerate(array)})
    stored = open_set(saved(tmp_path, LATENTS, kind), STORED)
    assert (stored.latents.factor, stored.latents.shift) == (1, 0)
    assert stored.identity() != open_set(saved(tmp_path, LATENTS, kind), SCALED).identity()
    for array in (PIXELS, np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))):
        opened = open_set(saved(tmp_path, array, kind, "arr_0"), SD)
        same(everything(opened), {str(row): pixels for row, pixels in enumerate(PIXELS)})
    (batch,) = opened.batches(np.array([2, 3, 6]), 4, 0)
    assert isinstance(batch, PictureBatch)
    np.testing.assert_array_equal(batch.pixels.numpy(), PIXELS[[2, 3, 6]])


def test_keys_and_types_of_tensor_files(tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    keys = [f"k{(3 * row) % 7}" for row in range(7)]
    narrow = torch.from_numpy(LATENTS).bfloat16()
    for file in (path, tmp_path / "z.pt"):
        save_file({"z": narrow}, file, {"keys": json.dumps(keys)}) if file == path else torch.save(
            {"z": narrow}, file
        )
        found = everything(open_set(str(file), STORED))
        names = keys if file == path else map(str, range(7))
        same(found, dict(zip(names, narrow.float().numpy(), strict=True)))
    np.save(tmp_path / "big.npy", LATENTS.astype(">f4"))
    for key, latent in everything(open_set(str(tmp_path / "big.npy"), STORED)).items():
        np.testing.assert_array_equal(latent, LATENTS[int(key)])
    np.save(tmp_path / "many.npy", np.zeros((11, 4, 1, 1), np.float16))
    assert open_set(str(tmp_path / "many.npy"), STORED).keys[:3] == ["00", "01", "02"]
    for wrong in ('["a"]', '["a","a","b","c","d","e","f"]', "no json"):
        save_file({"z": narrow}, path, {"keys": wrong})
        with pytest.raises(LatentkitError, match=r"z\.safetensors.*(no list of 7|'a' twice)"):
            open_set(str(path), STORED)


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
            open_set(str(path), replace(SD, channels=16))
        with pytest.raises(ContractError, match=r"pretrained = False.*weights=random"):
            open_set(str(path), replace(SD, allow_random=False))
        with pytest.raises(UsageError, match="holds latents: pictures are needed"):
            open_set(str(path), None)


def wrong_inputs(folder: Path) -> dict[str, tuple[str, str]]:
    """What is wrong -> path, and what the message must say."""
    text = folder / "notes.txt"
    text.write_text("hello")
    cut = folder / "cut.npy"
    np.save(cut, PIXELS)
    cut.write_bytes(cut.read_bytes()[:-1])
    (folder / "empty").mkdir()
    (folder / "one").mkdir()
    Image.fromarray(photo(0, 8, 8)).save(folder / "one/a.png")
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "pickle.pt")
    np.save(folder / "object.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.savez(folder / "two.npz", first=LATENTS, second=LATENTS)
    (folder / "junk.safetensors").write_bytes(b"x" * 100)
    (folder / "junk.npz").write_bytes(b"x" * 100)
    np.save(folder / "fortran.npy", np.asfortranarray(PIXELS))
    arrays = {
        "floats": LATENTS[:, :3],
        "channels": np.repeat(LATENTS, 4, axis=1),
        "moments": np.repeat(LATENTS, 2, axis=1),
        "flat": LATENTS[:, 0],
        "bytes": (LATENTS * 9).astype(np.uint8),
        "single": LATENTS[:1],
        "scalar": np.float32(3),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {
        "missing": ("absent.npz", "absent.npz does not exist: give a folder"),
        "text": ("notes.txt", "notes.txt is nothing that can be evaluated: give a folder"),
        "cut": ("cut.npy", "cannot be read as .npy: it has 757 bytes and its header says 758"),
        "empty folder": ("empty", "no picture in it"),
        "one picture": ("one", "one holds 1 of the at least 2"),
        "pickle": ("pickle.pt", "cannot be read as .pt"),
        "object array": ("object.npy", "Python objects"),
        "several tensors": ("two.npz", "holds first, second: which of them is meant"),
        "not safetensors": ("junk.safetensors", "cannot be read as .safetensors"),
        "not npz": ("junk.npz", "cannot be read as .npz"),
        "fortran": ("fortran.npy", "Fortran order"),
        "float pictures": ("floats.npy", "float32 [7, 3, 3, 2]: pictures must be uint8"),
        "channels": ("channels.npy", "[7, 16, 3, 2]: the decoder takes 4 channels"),
        "moments": ("moments.npy", "[7, 8, 3, 2]: are these moments? save the mean"),
        "no channels": ("flat.npy", "[7, 3, 2]: give latents, floats [N, C, h, w], or pictures"),
        "byte latents": ("bytes.npy", "uint8 [7, 4, 3, 2]: give latents, floats"),
        "a single one": ("single.npy", "holds 1 of the at least 2"),
        "scalar": ("scalar.npy", "float32 []: give latents"),
    }


def test_wrong_inputs_have_one_clear_line(tmp_path: Path) -> None:
    for what, (name, told) in wrong_inputs(tmp_path).items():
        with pytest.raises(LatentkitError) as refusal:
            open_set(str(tmp_path / name), STORED)
        assert told in str(refusal.value), what
        assert name in str(refusal.value), what
        assert "\n" not in str(refusal.value), what


def test_latents_that_cannot_be(tmp_path: Path) -> None:
    for value, told in (
        (np.nan, "NaN or infinite: 2, 5"),
        (-np.inf, "NaN or infinite"),
        (5e3, "as large as 5,000"),
    ):
        array = LATENTS.copy()
        array[[2, 5], 1, 2, 0] = value
        np.save(tmp_path / "z.npy", array)
        with pytest.raises(LatentkitError, match=told):
            everything(open_set(str(tmp_path / "z.npy"), STORED), 7)


def test_a_compressed_file_that_is_damaged_within(tmp_path: Path) -> None:
    path = Path(
        saved(
            tmp_path, np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8), ".npz:compressed"
        )
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(LatentkitError, match="is damaged"):
        everything(open_set(str(path), SD))


READ = """
import resource, sys
import numpy as np
import torch
from latentkit.evaluation.sets.open import open_set
from latentkit.evaluation.sets.space import Decodable
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pictures = open_set(sys.argv[1], Decodable(channels=4))
batches = pictures.batches(np.arange(len(pictures)), 16, 0)
total = sum(int(batch.pixels[:, 0, 0, 0].sum()) for batch in batches)
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_does_not_depend_on_the_size_of_a_file(tmp_path: Path, compressed: bool) -> None:
    count, path = 1024, tmp_path / "samples.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 512, 512, 3)}
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    picture = bytes([3]) + bytes(512 * 512 * 3 - 1)
    with (
        zipfile.ZipFile(path, "w", method, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(count):
            member.write(picture)
    ended = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
    total, grown = map(int, ended.stdout.split())
    assert total == 3 * count
    assert grown < 150, f"{grown} MiB for a file of 768 MiB"
