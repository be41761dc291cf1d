"""Weights that are absent, gated, damaged or of another architecture: one line that says what to do."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipes import AS_STORED
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTModel

from latentkit.encoders import T5, Autoencoder, DINOv3, Layout, Random
from latentkit.errors import LatentkitError, UsageError


@pytest.fixture
def folder(dinov3_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny DINOv3 that a test may damage."""
    return Path(shutil.copytree(dinov3_folder, tmp_path / "model"))


def failure(encoder: DINOv3 | Autoencoder | T5) -> str:
    """The one line that asking for the contract ends with."""
    with pytest.raises(LatentkitError) as caught:
        encoder.contract(AS_STORED)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_files_are_hashed_as_they_lie(folder: Path) -> None:
    contract = DINOv3(model=str(folder)).contract(AS_STORED)
    assert contract.weights == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }


def test_a_changed_weight_is_another_contract(folder: Path) -> None:
    before = DINOv3(model=str(folder)).contract(AS_STORED)
    state = load_file(folder / "model.safetensors")
    state["norm.weight"] += 1e-3
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    after = DINOv3(model=str(folder)).contract(AS_STORED)
    assert [name for name, _, _ in before.difference(after)] == ["weights.model.safetensors"]


def test_shards_are_found_by_their_index_hashed_and_loaded(dinov3_folder: Path, tmp_path: Path) -> None:
    model = DINOv3ViTModel.from_pretrained(dinov3_folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    encoder = DINOv3(model=str(tmp_path))
    assert set(encoder.contract(AS_STORED).weights) == {"config.json", *shards}
    loaded = encoder.load().vit.state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    (tmp_path / shards[1]).unlink()
    assert failure(DINOv3(model=str(tmp_path))).endswith(
        f"{shards[1]}, named by model.safetensors.index.json, is missing"
    )


def test_no_such_folder_is_not_looked_for_on_the_hub() -> None:
    for model in ("/nowhere/model", "./model", "~/no-such-model-folder", "models/dinov3/large"):
        assert failure(DINOv3(model=model)) == f"encoders.dinov3.model={model}: no such folder"


def test_a_file_is_not_a_folder(folder: Path) -> None:
    model = str(folder / "model.safetensors")
    assert "this is a file; give the folder that holds config.json" in failure(DINOv3(model=model))


def test_a_name_that_is_no_hub_id_is_refused_without_a_network() -> None:
    assert "is neither a folder nor a hub id" in failure(DINOv3(model="two words"))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _header_of_nonsense(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 16) + b"\xff" * 16)


def _huge_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 2**60) + file.read_bytes()[8:])


def _page(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize("damage", [_truncate, _lengthen, _header_of_nonsense, _huge_header, _page])
def test_a_damaged_weights_file_is_named_before_anything_is_loaded(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder / "model.safetensors")
    text = failure(DINOv3(model=str(folder)))
    assert "model.safetensors is damaged" in text
    assert text.endswith("download it again")


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = failure(DINOv3(model=str(folder)))
    assert "model.safetensors is missing" in text
    assert "pytorch_model.bin may run code when read and is not loaded: convert it" in text
    (folder / "config.json").unlink()
    assert f"no config.json in {folder}" in failure(DINOv3(model=str(folder)))


@pytest.mark.parametrize("content", ["{", "[]", '"dinov3_vit"'])
def test_a_damaged_config_is_one_line(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in failure(DINOv3(model=str(folder)))


def test_a_missing_tokenizer_is_named(t5_folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(t5_folder, tmp_path / "t5"))
    (copied / "tokenizer.json").unlink()
    assert "no tokenizer (tokenizer.json or spiece.model)" in failure(T5(model=str(copied)))


def test_the_wrong_architecture_is_named(dinov3_folder: Path, sd_folder: Path, t5_folder: Path) -> None:
    assert "model_type = t5, dinov3_vit is needed" in failure(DINOv3(model=str(t5_folder)))
    assert "model_type = dinov3_vit, t5 is needed" in failure(T5(model=str(dinov3_folder)))
    assert "model_type = None, t5 is needed" in failure(T5(model=str(sd_folder)))
    vae = Autoencoder(name="sd_vae", model=str(dinov3_folder))
    assert "_class_name = None, AutoencoderKL is needed" in failure(vae)


def test_a_missing_subfolder_is_named(sd_folder: Path) -> None:
    vae = Autoencoder(name="flux_vae", model=str(sd_folder), subfolder="vae")
    assert failure(vae).endswith(
        "there is no folder vae in it; if its weights lie at the top, pass encoders.flux_vae.subfolder=''"
    )


def test_a_missing_weight_and_one_of_another_shape_are_errors_and_never_random(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    first, second = "layer.0.mlp.up_proj.weight", "layer.1.norm1.weight"
    saved = folder / "model.safetensors"
    save_file({name: value for name, value in state.items() if name != first}, saved, {"format": "pt"})
    with pytest.raises(LatentkitError, match=rf"not a whole DINOv3ViTModel: .*{first} is missing"):
        DINOv3(model=str(folder)).load()
    save_file({**state, second: torch.zeros(3)}, saved, {"format": "pt"})
    with pytest.raises(LatentkitError) as caught:
        DINOv3(model=str(folder)).load()
    assert str(caught.value).endswith(f"{second} has another shape")


def test_an_autoencoder_s_missing_weight_and_other_shape_are_errors(sd_folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(sd_folder, tmp_path / "vae"))
    saved, name = copied / "diffusion_pytorch_model.safetensors", "encoder.conv_in.weight"
    state = load_file(saved)
    encoder = Autoencoder(name="sd_vae", model=str(copied))
    save_file({key: value for key, value in state.items() if key != name}, saved, {"format": "pt"})
    with pytest.raises(LatentkitError, match=f"not a whole AutoencoderKL: {name} is missing"):
        encoder.load()
    save_file({**state, name: torch.zeros(3, 3)}, saved, {"format": "pt"})
    with pytest.raises(LatentkitError, match=f"cannot be loaded as AutoencoderKL: .*{name}"):
        encoder.load()


def test_loading_says_nothing(folder: Path, sd_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    DINOv3(model=str(folder)).load()
    Autoencoder(name="sd_vae", model=str(sd_folder)).load()
    assert capfd.readouterr() == ("", "")


def test_patterns_fetch_one_network_and_nothing_beside_it() -> None:
    flux = Layout(weights="diffusion_pytorch_model", marker="", architecture="", subfolder="vae")
    assert all(pattern.startswith("vae/") for pattern in flux.patterns)
    t5 = Layout(weights="model", marker="", architecture="", tokenizer=True)
    assert {"config.json", "model.safetensors", "tokenizer.json", "spiece.model"} <= set(t5.patterns)


def test_unknown_sizes_of_random_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="choose one of small, real"):
        Random(size="large")
    assert (Random(seed=3).label, Random(seed=3, size="real").label) == ("random:3", "random:3:real")


def test_declarations_import_no_network_library() -> None:
    code = (
        "import sys; from latentkit.encoders import *; from latentkit.pixels import Pillow;"
        "[encoder(weights=Random()).contract(Pillow(True, True)) for encoder in (DINOv3, T5)];"
        "heavy = {'torch', 'transformers', 'diffusers', 'lightning', 'huggingface_hub'};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchvision_is_not_asked_for(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None; from latentkit.encoders import DINOv3;"
        f"DINOv3(model={str(folder)!r}).load()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
