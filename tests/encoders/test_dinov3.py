"""DINOv3: embeddings and patches as transformers gives them, behind ImageNet's normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import AS_STORED, UPRIGHT
from transformers import DINOv3ViTModel

from latentkit.encoders import DINOv3, Random
from latentkit.errors import UsageError

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)


def plain(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(pooler_output, last_hidden_state) of transformers' own model on pixels normalised in float64."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = ((PIXELS / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        out = DINOv3ViTModel.from_pretrained(folder).eval()(torch.from_numpy(values).float())
    return out.pooler_output, out.last_hidden_state


def encode(encoder: DINOv3) -> dict[str, torch.Tensor]:
    tensors, facts = encoder.batch(["a", "b"], PIXELS)
    assert facts == [{}, {}]
    with torch.inference_mode():
        return encoder.load()(**tensors)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("channels_last", [False, True])
def test_embeddings_are_the_plain_model_s_pooler_output(dinov3_folder: Path, channels_last: bool) -> None:
    out = encode(DINOv3(model=str(dinov3_folder), input_size=64, channels_last=channels_last))
    assert list(out) == ["embeddings"]
    assert out["embeddings"].shape == (2, 32)
    assert out["embeddings"].dtype == torch.float32
    assert relative(out["embeddings"], plain(dinov3_folder)[0]) < 1e-5


def test_patches_are_the_last_tokens_and_no_register_is_among_them(dinov3_folder: Path) -> None:
    out = encode(DINOv3(model=str(dinov3_folder), input_size=64, patches=True))
    hidden = plain(dinov3_folder)[1]
    assert hidden.shape[1] == 1 + 4 + 16
    assert out["patches"].shape == (2, 16, 32)
    assert relative(out["patches"], hidden[:, -16:]) < 1e-5
    assert relative(out["embeddings"], hidden[:, 0]) < 1e-5


def test_pixels_are_normalised_by_imagenet_s_mean_and_std(dinov3_folder: Path) -> None:
    network = DINOv3(model=str(dinov3_folder), input_size=64).load()
    levels = torch.tensor([0.0, 127.5, 255.0]).expand(1, 16, 16, 3)
    got = network.normalise(levels)[0, :, 3, 5]
    expected = [(0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_network_is_frozen_in_eval_mode_and_float32(dinov3_folder: Path) -> None:
    network = DINOv3(model=str(dinov3_folder)).load()
    assert not network.training
    parameters = list(network.parameters())
    assert parameters
    assert {(p.dtype, p.requires_grad, p.device.type) for p in parameters} == {(torch.float32, False, "cpu")}


def test_contract_says_what_was_loaded_and_how_pixels_are_made(dinov3_folder: Path) -> None:
    encoder = DINOv3(model=str(dinov3_folder), input_size=64, patches=True, revision="main")
    contract = encoder.contract(UPRIGHT)
    assert contract.pretrained
    assert contract.model == f"local:{dinov3_folder.name}"
    assert contract.revision is None
    assert set(contract.weights) == {"config.json", "model.safetensors"}
    assert contract.stored == "cls+patches"
    assert contract.outputs == {
        "embeddings": {"shape": [32], "dtype": "float32"},
        "patches": {"shape": [16, 32], "dtype": "float32"},
    }
    contract.require(input__size=64, input__orientation="exif", input__mean=[0.485, 0.456, 0.406])
    assert encoder.contract(AS_STORED).difference(contract) == [
        ("input.damaged_jpeg", "decoded", "refused"),
        ("input.orientation", "ignored", "exif"),
    ]


def test_random_weights_have_the_real_shapes_and_depend_on_the_seed_alone() -> None:
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)

    def embeddings(seed: int) -> torch.Tensor:
        encoder = DINOv3(weights=Random(seed=seed))
        tensors, _ = encoder.batch(["a", "b"], pixels)
        torch.rand(1)
        with torch.inference_mode():
            return encoder.load()(**tensors)["embeddings"]

    first = embeddings(0)
    assert first.shape == (2, 1024)
    assert first.isfinite().all()
    assert torch.equal(first, embeddings(0))
    assert not torch.equal(first, embeddings(1))
    assert not torch.equal(first[0], first[1])


def test_loading_random_weights_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    DINOv3(weights=Random(seed=3)).load()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_the_real_architecture_is_vit_l_16_with_four_registers() -> None:
    encoder = DINOv3(weights=Random(size="real"), patches=True)
    network = encoder.load()
    # 303.1 million: the model card of dinov3-vitl16-pretrain-lvd1689m says 300 M.
    width, hidden, registers = 1024, 4096, 4
    attention = 4 * width * width + 3 * width  # no bias on keys
    layer = attention + 2 * width * hidden + hidden + width + 4 * width + 2 * width  # + norms, layer scales
    embeddings = 3 * 16 * 16 * width + width + (2 + registers) * width  # patches; CLS, mask, registers
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 24 * layer + embeddings + 2 * width == pytest.approx(303.1e6, rel=1e-3)
    tensors, _ = encoder.batch(["a"], np.zeros((1, 224, 224, 3), np.float32))
    with torch.inference_mode():
        out = network(**tensors)
    assert out["embeddings"].shape == (1, 1024)
    assert out["patches"].shape == (1, 196, 1024)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in out.values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"input_size": 100}, "input_size=100: must be a positive multiple of 16"),
        ({"precision": "fp16"}, "choose one of auto, 32-true, tf32, 16-mixed, bf16-mixed"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        DINOv3(**options)
