"""The decoder: what diffusers decodes, one rounding to the digit, latents at the model's own scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentkit.encoders import LatentDecoder, Pretrained, Random
from latentkit.encoders.networks import DecodingNetwork
from latentkit.errors import LatentkitError, UsageError


def decoder(folder: Path, **options: object) -> LatentDecoder:
    return LatentDecoder(model=str(folder), weights=Pretrained(), **options)  # type: ignore[arg-type]


def latents(count: int, channels: int = 4, side: int = 4) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def diffusers_images(folder: Path, z: torch.Tensor) -> np.ndarray:
    """[B, H, W, 3] float64, what diffusers' whole model decodes, in about [-1, 1]."""
    from diffusers import AutoencoderKL

    images = AutoencoderKL.from_pretrained(folder).eval().decode(z).sample
    return images.permute(0, 2, 3, 1).double().numpy()


def rounded(images: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(127.5 * images + 128, 0, 255)).astype(np.uint8)


def agree(pixels: torch.Tensor, images: np.ndarray) -> None:
    """Equal, but where float32 lands on the other side of a rounding; not grey all over."""
    expected = rounded(images)
    apart = np.abs(pixels.numpy().astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3
    assert expected.std() > 5


@torch.inference_mode()
def test_decodes_what_diffusers_decodes(sd_folder: Path, flux_folder: Path) -> None:
    for folder, top, options in (
        (sd_folder, sd_folder, {}),
        (flux_folder / "vae", flux_folder, {"subfolder": "vae"}),
    ):
        z = latents(3, decoder(top, **options).channels)
        decoded = decoder(top, **options).load()(z, 1.0, 0.0)
        pixels, finite = decoded["pixels"], decoded["finite"]
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 32, 32, 3)
        assert pixels.is_contiguous()
        assert finite.tolist() == [True] * 3
        agree(pixels, diffusers_images(folder, z))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stored_latents_are_brought_back_to_the_models_scale(sd_folder: Path, dtype: torch.dtype) -> None:
    stored = ((latents(2) - 0.1159) * 0.3611).to(dtype)
    pixels = decoder(sd_folder).load()(stored, 0.3611, 0.1159)["pixels"]
    agree(pixels, diffusers_images(sd_folder, stored.float() / 0.3611 + 0.1159))
    plain = decoder(sd_folder).load()(stored, 1.0, 0.0)["pixels"]
    assert not torch.equal(plain, pixels)


@torch.inference_mode()
def test_channels_last_changes_the_layout_and_not_the_picture(sd_folder: Path) -> None:
    plain = decoder(sd_folder).load()(latents(3), 1.0, 0.0)["pixels"]
    last = decoder(sd_folder, channels_last=True).load()
    assert last.decoder[1].conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    pixels = last(latents(3), 1.0, 0.0)["pixels"]
    assert pixels.is_contiguous()
    assert (pixels.int() - plain.int()).abs().max() <= 1


def network(rounding: str) -> DecodingNetwork:
    return DecodingNetwork(torch.nn.Identity(), rounding=rounding)


def test_rounding_to_the_digit() -> None:
    """At and around every border between two levels, far outside the range, and where it is not finite."""
    levels = torch.arange(256, dtype=torch.float64)
    for rounding, borders, code in (
        ("round", (levels - 128) / 127.5, lambda x: np.clip(127.5 * x + 128, 0, 255)),
        ("truncate", (levels - 127.5) / 127.5, lambda x: np.clip(127.5 * x + 127.5, 0, 255)),
    ):
        below, above = borders - 1e-5, borders + 1e-5
        values = torch.cat([below, above, torch.tensor([-1e6, -1.0, 1e6])]).float()
        values = torch.cat([values, values[:1]])[:513].reshape(1, 3, 9, 19)
        decoded = network(rounding)(values, 1.0, 0.0)
        pixels, finite = decoded["pixels"], decoded["finite"]
        exact = code(values.double().numpy())
        assert np.array_equal(pixels.permute(0, 3, 1, 2).numpy(), np.floor(exact).astype(np.uint8))
        assert bool(finite.all())
    exact_levels = (levels / 127.5 - 1).float().reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    pixels = network("round")(exact_levels, 1.0, 0.0)["pixels"]
    assert torch.equal(pixels[0, :, :, 0].flatten().double(), levels)  # a picture's own levels come back


def test_truncation_is_what_latent_diffusions_scripts_do() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clamped = torch.clamp((images + 1.0) / 2.0, min=0.0, max=1.0)
    theirs = (255.0 * clamped.numpy().transpose(0, 2, 3, 1)).astype(np.uint8)
    ours = network("truncate")(images, 1.0, 0.0)["pixels"]
    assert np.array_equal(ours.numpy(), theirs)
    other = network("round")(images, 1.0, 0.0)["pixels"]
    inside = (theirs > 0) & (theirs < 255)
    assert 0.4 < (other.numpy().astype(int) - theirs)[inside].mean() < 0.6


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_said_of_its_picture_alone(value: float) -> None:
    images = torch.zeros(3, 3, 8, 8)
    images[1, 2, 7, 0] = value
    finite = network("round")(images, 1.0, 0.0)["finite"]
    assert finite.tolist() == [True, False, True]


def test_the_identity_has_all_that_changes_a_picture(sd_folder: Path, tmp_path: Path) -> None:
    import hashlib

    here = decoder(sd_folder)
    identity = here.identity()
    weights = (sd_folder / "diffusion_pytorch_model.safetensors").read_bytes()
    assert identity["weights"]["diffusion_pytorch_model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert identity["pretrained"] is True
    others = [
        decoder(sd_folder, rounding="truncate"),
        decoder(sd_folder, precision="16-mixed"),
        LatentDecoder(model="none", weights=Random(seed=1)),
        LatentDecoder(model="none", weights=Random(seed=2)),
    ]
    identities = [identity, *(other.identity() for other in others)]
    assert len({str(one) for one in identities}) == len(identities)
    assert others[-1].identity()["pretrained"] is False
    assert decoder(sd_folder, batch_size=3, channels_last=True).identity() == identity


def test_the_normalisation_is_the_models(sd_folder: Path, flux_folder: Path) -> None:
    assert decoder(sd_folder).normalisation == (0.0, 0.18215)
    assert decoder(flux_folder, subfolder="vae").normalisation == (0.1159, 0.3611)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "16-true"}, ["decoder.precision=16-true", "16-mixed"]),
        ({"rounding": "floor"}, ["decoder.rounding=floor", "truncate"]),
        ({"batch_size": 0}, ["decoder.batch_size=0"]),
    ],
)
def test_a_wrong_option_is_a_usage_error(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as told:
        LatentDecoder(**({"model": "none"} | options))  # type: ignore[arg-type]
    assert all(word in str(told.value) for word in words)


def test_a_checkpoint_of_another_architecture_is_named(t5_folder: Path) -> None:
    with pytest.raises(LatentkitError, match=r"^decoder\.model=.*AutoencoderKL is needed"):
        decoder(t5_folder).load()
    with pytest.raises(LatentkitError, match=r"^decoder\.model="):
        decoder(t5_folder).identity()
