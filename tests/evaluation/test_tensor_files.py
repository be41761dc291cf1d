"""Tensors in files that users bring, against the libraries that wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipes import photo
from safetensors.torch import save_file
from set_contents import SCALED, SD, STORED, everything, same

from latentkit.errors import LatentkitError
from latentkit.evaluation.sets.open import open_set
from latentkit.evaluation.step import PictureBatches

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
        assert (opened.latents.scale, opened.latents.shift) == (0.18215, 0.5)
        same(everything(opened), {str(row): latent for row, latent in enumerate(array)})
    stored = open_set(saved(tmp_path, LATENTS, kind), STORED)
    assert (stored.latents.scale, stored.latents.shift) == (1, 0)
    assert stored.identity != open_set(saved(tmp_path, LATENTS, kind), SCALED).identity
    for array in (PIXELS, np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))):
        opened = open_set(saved(tmp_path, array, kind, "arr_0"), SD)
        same(everything(opened), {str(row): pixels for row, pixels in enumerate(PIXELS)})
    (batch,) = PictureBatches(opened, np.array([2, 3, 6]), 4)
    np.testing.assert_array_equal(batch.stored.numpy(), PIXELS[[2, 3, 6]])


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
        "pickle": (
            "pickle.pt",
            "holds more than tensors, or is no file of torch.save; nothing of it was run",
        ),
        "object array": ("object.npy", "Python objects"),
        "several tensors": ("two.npz", "holds first, second: which of them is meant"),
        "not safetensors": ("junk.safetensors", "cannot be read as .safetensors"),
        "not npz": ("junk.npz", "is cut, or no .npz file"),
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
        (np.nan, "NaN or infinite; by key: 2, 5"),
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
from latentkit.evaluation.step import PictureBatches
from latentkit.evaluation.sets.open import open_set
from latentkit.encoders import LatentDecoder
from latentkit.evaluation.compatibility import Decodable
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pictures = open_set(sys.argv[1], Decodable(LatentDecoder(model="none")))
batches = PictureBatches(pictures, np.arange(len(pictures)), 16)
total = sum(int(batch.stored[:, 0, 0, 0].sum()) for batch in batches)
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
