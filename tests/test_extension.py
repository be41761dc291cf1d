"""The documents' code does what they say: it is cut out of them by their ``<!-- tested: ... -->`` marks."""

from __future__ import annotations

import json
import re
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encode_process import run_verb
from PIL import Image
from recipes import photo

REPO = Path(__file__).parents[1]
PAGES = "".join(
    REPO.joinpath(page).read_text(encoding="utf-8") for page in ("README.md", "docs/extending.md")
)
BLOCKS = dict(re.findall(r"<!-- tested: (.+?) -->\n```\w+\n(.*?)```", PAGES, re.DOTALL))
PICTURES = {"lake": (96, 128), "trees/oak": (200, 50), "trees/elm": (64, 64)}


def encode(cwd: Path, *arguments: str, expect: int = 0) -> str:
    """What the command says; relative paths and ``import colours`` are those of `cwd`."""
    ended = run_verb("encode", *arguments, cwd=cwd)
    assert ended.returncode == expect, ended.stderr
    return ended.stderr


def statistics(path: Path, size: int = 64) -> np.ndarray:
    """What Colours computes, by other means: float64, from the picture squashed by Pillow."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) / 255
    return np.array([*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1))])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: the documents' files, and three pictures."""
    place = tmp_path_factory.mktemp("outside")
    for name in ("colours.py", "conf/encoder/colours.yaml", "archive.py", "conf/dataset/archive.yaml"):
        place.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        place.joinpath(name).write_text(BLOCKS[name])
    for seed, (name, (height, width)) in enumerate(PICTURES.items()):
        path = place / "PHOTOS" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(seed, height, width)).save(path, quality=95)
    return place


def test_an_encoder_from_outside_the_package_runs_and_stores_what_it_computes(place: Path) -> None:
    arguments = ["--config-dir", "conf", "dataset=folder", "dataset.root=PHOTOS", "encoder=colours"]
    assert "3 to encode" in encode(place, *arguments)
    for name in PICTURES:
        stored = np.load(place / "outputs" / "PHOTOS" / "colours" / f"{name}.npy", allow_pickle=False)
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, statistics(place / "PHOTOS" / f"{name}.jpg"), atol=1e-6)
    assert "colours: 3 done\nnothing to do" in encode(place, *arguments)


def test_its_options_are_in_the_contract_and_another_value_is_refused(place: Path) -> None:
    arguments = ["--config-dir", "conf", "dataset=folder", "dataset.root=PHOTOS", "encoder=colours"]
    arguments.append("output_dir=contract")
    encode(place, *arguments)
    claim = json.loads((place / "contract" / "colours" / "contract.json").read_text())["contract"]
    made_by = claim["model"], claim["weights"], claim["pretrained"], claim["input"]["orientation"]
    assert made_by == ("colours.Colours", "none", True, "exif")
    assert "input.size: there 64, asked 32" in encode(place, *arguments, "encoders.colours.size=32", expect=1)
    encode(place, *arguments, "encoders.colours.size=32", "overwrite=true")
    stored = np.load(place / "contract" / "colours" / "lake.npy", allow_pickle=False)
    np.testing.assert_allclose(stored, statistics(place / "PHOTOS" / "lake.jpg", 32), atol=1e-6)


def test_a_dataset_from_outside_the_package_runs(place: Path) -> None:
    with zipfile.ZipFile(place / "PHOTOS.zip", "w") as archive:
        for name in PICTURES:
            archive.write(place / "PHOTOS" / f"{name}.jpg", f"{name}.jpg")
        archive.writestr("notes.txt", "no picture")
    arguments = ["--config-dir", "conf", "dataset=archive", "dataset.root=PHOTOS.zip", "encoder=colours"]
    encode(place, *arguments)
    folder = place / "outputs" / "PHOTOS.zip" / "colours"
    stored = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.npy")}
    assert stored == set(PICTURES)
    for name in PICTURES:
        array = np.load(folder / f"{name}.npy", allow_pickle=False)
        np.testing.assert_allclose(array, statistics(place / "PHOTOS" / f"{name}.jpg"), atol=1e-6)
    assert "colours: 3 done\nnothing to do" in encode(place, *arguments)


def test_a_set_named_like_the_dataset_is_its_default(place: Path) -> None:
    """As the page says below the dataset; without it the encoder has to be named."""
    Image.fromarray(photo(9, 40, 40)).save(place / "one.jpg")
    with zipfile.ZipFile(place / "one.zip", "w") as archive:
        archive.write(place / "one.jpg", "one.jpg")
    arguments = ["--config-dir", "conf", "dataset=archive", "dataset.root=one.zip", "dry_run=true"]
    assert "encoder/archive" in encode(place, *arguments, expect=2)
    package, defaults = "# @package _global_", "defaults: [colours]"
    assert f"`{package}` and `{defaults}`" in PAGES
    (place / "conf" / "encoder" / "archive.yaml").write_text(f"{package}\n{defaults}\n")
    try:
        assert "colours: 1 to encode" in encode(place, *arguments)
    finally:
        (place / "conf" / "encoder" / "archive.yaml").unlink()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs that the README's reading code reads."""
    place = tmp_path_factory.mktemp("reader")
    encode(place, "encoder=sd_vae", "limit=3")
    encode(place, "encoder=sd_vae", "limit=3", "store=shards", "output_dir=outputs/shards")
    return place


@pytest.fixture
def read(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Runs a block of the README in the demo's folder, then checks on what it left in its variables."""

    def run(name: str, checks: str) -> None:
        monkeypatch.chdir(demo)
        block = BLOCKS[name].replace("scaled=True, require", "scaled=True, allow_random=True, require")
        exec(compile(f"{block}\n{textwrap.dedent(checks)}", name, "exec"), {})

    return run


def test_the_readme_s_reading_code_reads(read: Callable[[str, str], None]) -> None:
    read(
        "reading",
        """
        raw = np.load("outputs/demo/sd_vae/demo_00_discs.npy", allow_pickle=False)
        assert raw.shape == (4, 32, 32) and raw.dtype == np.float16 and raw.any()
        np.testing.assert_allclose(scaled, raw.astype(np.float64) * 0.18215, rtol=1e-6)
        """,
    )
    read(
        "reading shards",
        """
        import numpy as np
        assert keys == ["demo_00_discs", "demo_01_clouds", "demo_02_waves"], keys
        assert latents.shape == (3, 4, 32, 32) and labels.shape == (3,)
        for key, latent in zip(keys, latents):
            np.testing.assert_array_equal(latent, np.load(f"outputs/demo/sd_vae/{key}.npy"))
        """,
    )


def test_the_readme_s_training_code_reads_scaled_latents(read: Callable[[str, str], None]) -> None:
    read(
        "training on shards",
        """
        import numpy as np
        raw = np.load("outputs/demo/sd_vae/demo_00_discs.npy").astype(np.float64)
        np.testing.assert_allclose(latents.numpy(), raw * 0.18215, rtol=1e-6)
        from safetensors.numpy import load_file
        assert label == load_file("outputs/shards/sd_vae/shard_00000000.safetensors")["labels"][0]
        """,
    )


def test_the_readme_s_requirement_passes_and_a_wrong_one_does_not(read: Callable[[str, str], None]) -> None:
    read(
        "requiring",
        """
        from latentkit.encoders import ContractError
        try:
            contract.require(scaled=True)
        except ContractError as error:
            assert "scaled" in str(error)
        else:
            raise AssertionError("unscaled latents passed as scaled")
        """,
    )
