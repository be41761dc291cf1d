"""The autoencoders: what diffusers' own `encode` gives, as mean, sample or moments."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save_perturbed, shipped_architecture, tiny_autoencoder
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline
from recipes import AS_STORED, UPRIGHT, photo
from safetensors.torch import load_file, save_file

from latentkit.encoders import Autoencoder, Contract, ContractError, LatentDecoder, Random
from latentkit.encoders.autoencoder import posterior_noise
from latentkit.errors import UsageError
from latentkit.evaluation.compatibility import Decodable
from latentkit.pixels import AdmCrop

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def sd(folder: Path, **options: Any) -> Autoencoder:
    return Autoencoder(name="sd_vae", model=str(folder), **options)


def flux(folder: Path, **options: Any) -> Autoencoder:
    return Autoencoder(name="flux_vae", model=str(folder), subfolder="vae", crop="bucket", **options)


def encode(
    encoder: Autoencoder, keys: tuple[str, ...] = ("a", "b"), pixels: np.ndarray = PIXELS
) -> torch.Tensor:
    tensors, _ = encoder.batch(keys, pixels)
    with torch.inference_mode():
        latents = encoder.load()(**tensors)["latents"]
    assert latents.dtype == torch.float16
    return latents


def plain(folder: Path) -> Any:
    """The posterior of diffusers' own model on pixels in [-1, 1]."""
    images = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2) / 127.5 - 1.0).float()
    with torch.inference_mode():
        return AutoencoderKL.from_pretrained(folder).eval().encode(images).latent_dist


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for float32 rounding that tips a float16 value over to its neighbour."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs.half(), rtol=1e-3, atol=1e-6)
    assert (ours == theirs.half()).float().mean() > 0.98


@pytest.mark.parametrize("channels_last", [False, True])
def test_mean_is_the_plain_posterior_s(sd_folder: Path, flux_folder: Path, channels_last: bool) -> None:
    ours = encode(sd(sd_folder, channels_last=channels_last))
    assert ours.shape == (2, 4, 8, 12)
    assert_close(ours, plain(sd_folder).mean)
    assert_close(encode(flux(flux_folder, channels_last=channels_last)), plain(flux_folder / "vae").mean)


def test_float32_error_before_rounding_is_below_one_in_a_hundred_thousand(sd_folder: Path) -> None:
    network = sd(sd_folder).load()
    images = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2) / 127.5 - 1.0).float()
    with torch.inference_mode():
        ours = network.encoder(images)
    theirs = plain(sd_folder).parameters
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_moments_are_mean_then_log_variance(sd_folder: Path) -> None:
    ours, posterior = encode(sd(sd_folder, posterior="moments")), plain(sd_folder)
    assert ours.shape == (2, 8, 8, 12)
    assert_close(ours, torch.cat([posterior.mean, posterior.logvar], dim=1))


def test_scaled_is_shifted_then_multiplied(flux_folder: Path) -> None:
    expected = (plain(flux_folder / "vae").mean - 0.1159) * 0.3611
    assert_close(encode(flux(flux_folder, scaled=True)), expected)
    contract = flux(flux_folder, scaled=True).contract(UPRIGHT)
    assert (contract.scaled, contract.scaling_factor, contract.shift_factor) == (True, 0.3611, 0.1159)


def test_a_sample_depends_on_key_and_seed_and_on_no_batch_position(sd_folder: Path) -> None:
    encoder = sd(sd_folder, posterior="sample", seed=7)
    forward = encode(encoder)
    backward = encode(encoder, ("b", "a"), PIXELS[::-1].copy())
    alone = encode(encoder, ("b",), PIXELS[1:])
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(forward[1:], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(forward, encode(encoder, ("a", "c")), atol=1e-2)
    assert not torch.allclose(forward, encode(sd(sd_folder, posterior="sample", seed=8)), atol=1e-2)


def test_samples_have_the_posterior_s_mean_and_deviation(sd_folder: Path) -> None:
    encoder, posterior = sd(sd_folder, posterior="sample"), plain(sd_folder)
    keys = tuple(f"key{n}" for n in range(64))
    latents = encode(encoder, keys, np.repeat(PIXELS[:1], 64, axis=0)).float()
    standard = (latents - posterior.mean[:1]) / posterior.std[:1]
    count = standard.numel()
    assert abs(standard.mean()) < 5 / count**0.5
    assert standard.std() == pytest.approx(1, abs=5 / (2 * count) ** 0.5)


@pytest.mark.parametrize("posterior", ["mean", "sample", "moments"])
def test_flip_adds_the_latents_of_the_mirrored_pixels(sd_folder: Path, posterior: str) -> None:
    encoder = sd(sd_folder, posterior=posterior, flip=True)
    tensors, _ = encoder.batch(("a", "b"), PIXELS)
    with torch.inference_mode():
        both = encoder.load()(**tensors)
    assert list(both) == list(encoder.outputs) == ["latents", "latents_flip"]
    assert torch.equal(both["latents"], encode(sd(sd_folder, posterior=posterior)))
    mirrored = np.ascontiguousarray(PIXELS[:, :, ::-1])
    if posterior == "sample":
        mean = encode(sd(sd_folder), pixels=mirrored).float()
        std = torch.exp(encode(sd(sd_folder, posterior="moments"), pixels=mirrored).float()[:, 4:] / 2)
        noise = np.stack([posterior_noise(0, key, (4, 8, 12), flip=True) for key in "ab"])
        torch.testing.assert_close(
            both["latents_flip"].float(), mean + std * torch.from_numpy(noise), rtol=5e-3, atol=5e-3
        )
    else:
        assert torch.equal(both["latents_flip"], encode(sd(sd_folder, posterior=posterior), pixels=mirrored))
    assert not torch.allclose(both["latents_flip"], both["latents"].flip(3), atol=1e-3)


def test_flip_is_in_the_contract_and_without_it_nothing_of_it_is(sd_folder: Path) -> None:
    plain_contract, contract = (sd(sd_folder, flip=flip).contract(AS_STORED) for flip in (False, True))
    assert (
        contract.outputs["latents_flip"]
        == contract.outputs["latents"]
        == {
            "shape": [4, 32, 32],
            "dtype": "float16",
        }
    )
    assert [name for name, _, _ in plain_contract.difference(contract)] == [
        "input.flip",
        "outputs.latents_flip.dtype",
        "outputs.latents_flip.shape",
    ]
    assert "flip" not in json.dumps(plain_contract.to_dict())


def test_a_mirrored_crop_is_not_the_crop_of_the_mirrored_picture() -> None:
    """Why the contract says which it is: where the margins differ by a pixel, so do the two."""
    picture = photo(3, 64, 91)
    crop = AdmCrop(size=64)
    assert not np.array_equal(crop(picture)[:, ::-1], crop(picture[:, ::-1]))
    np.testing.assert_array_equal(crop(picture)[:, :0:-1], crop(picture[:, ::-1])[:, 1:])
    even = picture[:, :90]
    np.testing.assert_array_equal(crop(even)[:, ::-1], crop(even[:, ::-1]))


@pytest.mark.parametrize(("flip", "prefix"), [(False, ""), (True, "flip:")])
def test_noise_is_as_documented_by_another_implementation(flip: bool, prefix: str) -> None:
    """Python's own Mersenne Twister, seeded alike, and Marsaglia's polar method."""
    key = "train/n01440764/n01440764_10026"
    digest = hashlib.sha256(f"{prefix}0:{key}".encode()).digest()
    words = struct.unpack(">8I", digest)
    twister = random.Random(sum(word << (32 * place) for place, word in enumerate(words)))
    expected: list[float] = []
    while len(expected) < 6:
        x, y = 2 * twister.random() - 1, 2 * twister.random() - 1
        square = x * x + y * y
        if 0 < square < 1:
            factor = math.sqrt(-2 * math.log(square) / square)
            expected += [factor * y, factor * x]
    np.testing.assert_allclose(posterior_noise(0, key, (1, 2, 3), flip=flip).ravel(), expected, rtol=1e-6)


def test_checkpoints_with_attention_under_its_old_names_load_whole(sd_folder: Path, tmp_path: Path) -> None:
    """stabilityai/sd-vae-ft-mse names its attention ``query``, ``key``, ``value`` and ``proj_attn``."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(sd_folder / "diffusion_pytorch_model.safetensors")
    old = {}
    for name, tensor in state.items():
        for new_part, old_part in names.items():
            name = name.replace(f".{new_part}.", f".{old_part}.")
        old[name] = tensor
    assert sum("proj_attn" in name for name in old) == 4
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((sd_folder / "config.json").read_text())
    assert torch.equal(encode(sd(tmp_path)), encode(sd(sd_folder)))


def test_contract_of_a_fixed_and_of_a_picture_dependent_size(sd_folder: Path, flux_folder: Path) -> None:
    fixed = sd(sd_folder, posterior="sample", seed=5).contract(AS_STORED)
    assert fixed.outputs == {"latents": {"shape": [4, 32, 32], "dtype": "float16"}}
    assert fixed.stored == "posterior_sample:5"
    assert (fixed.scaling_factor, fixed.shift_factor, fixed.scaled) == (0.18215, None, False)
    fixed.require(input__size=256, input__crop="adm", input__range=[-1, 1], input__orientation="ignored")
    free = flux(flux_folder).contract(UPRIGHT)
    assert free.outputs == {"latents": {"shape": [16, "H/8", "W/8"], "dtype": "float16"}}
    assert free.stored == "posterior_mean"
    assert flux(flux_folder, posterior="moments").contract(UPRIGHT).outputs["latents"]["shape"][0] == 32
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    digests = {name: hashlib.sha256((flux_folder / "vae" / name).read_bytes()).hexdigest() for name in files}
    assert free.weights == digests


def test_random_flux_latents_of_a_megapixel_have_the_real_shape() -> None:
    flux = shipped_architecture("flux_vae")
    encoder = Autoencoder(name="flux_vae", model="", architecture=flux, crop="original", weights=Random())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024, 3), dtype=np.uint8)
    latents = encode(encoder, ("a",), pixels)
    assert latents.shape == (1, 16, 128, 128)
    assert latents.isfinite().all()
    contract = encoder.contract(UPRIGHT)
    assert (contract.pretrained, contract.weights) == (False, "random:0")
    assert (contract.scaling_factor, contract.shift_factor) == (0.3611, 0.1159)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels", "millions"), [("sd_vae", 4, 83.65), ("flux_vae", 16, 83.82)])
def test_the_real_architectures_have_the_published_number_of_parameters(
    name: str, channels: int, millions: float
) -> None:
    architecture, weights = shipped_architecture(name), Random(size="real")
    encoder = Autoencoder(name=name, model="", architecture=architecture, size=64, weights=weights)
    count = sum(parameter.numel() for parameter in encoder.autoencoder().parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)
    latents = encode(encoder, ("a", "b"))
    assert latents.shape == (2, channels, 8, 12)
    assert latents.isfinite().all()


def test_channels_and_factor_are_the_model_s(flux_folder: Path, tmp_path: Path) -> None:
    """Of whatever model is named, such as one with 32 channels and a sixteenth of the side."""
    other = Autoencoder(name="sd_vae", model=str(flux_folder), subfolder="vae")
    assert other.contract(AS_STORED).outputs["latents"]["shape"] == [16, 32, 32]
    save_perturbed(tiny_autoencoder(5, latent_channels=32, scaling_factor=0.5), tmp_path)
    encoder = sd(tmp_path, size=64)
    contract = encoder.contract(AS_STORED)
    assert contract.outputs["latents"]["shape"] == [32, 4, 4]
    ours = encode(encoder)
    assert ours.shape == (2, 32, 4, 6)
    assert_close(ours, plain(tmp_path).mean)
    free = sd(tmp_path, crop="original")
    assert free.geometry.shape(100, 90) == (80, 96)
    assert free.outputs["latents"]["shape"] == [32, "H/16", "W/16"]
    for options, text in (
        ({"size": 72}, "encoders.sd_vae.size=72: must be a positive multiple of 16"),
        ({"crop": "bucket", "buckets": ["72x64"]}, "72x64' is not WIDTHxHEIGHT in multiples of 16"),
    ):
        with pytest.raises(UsageError, match=text):
            sd(tmp_path, **options).contract(AS_STORED)
    random = Autoencoder(
        name="vae",
        model="",
        weights=Random(),
        size=64,
        architecture={"latent_channels": 32, "block_out_channels": [128, 128, 256, 512, 512]},
    )
    assert encode(random).shape == (2, 32, 4, 6)


@pytest.fixture(scope="module")
def playground_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder whose configuration gives its latents' mean and deviation by channel."""
    vectors = {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4927, 5.9022, 6.5498, 5.3]}
    vae = tiny_autoencoder(4, latent_channels=4, scaling_factor=0.5, **vectors)
    return save_perturbed(vae, tmp_path_factory.mktemp("playground"))


def test_scaled_by_mean_and_deviation_is_what_diffusers_feeds_the_denoiser(playground_folder: Path) -> None:
    """Against the image-to-image pipeline's own preparation of latents."""
    model = AutoencoderKL.from_pretrained(playground_folder).eval()
    posterior = plain(playground_folder)
    model.encode = lambda images: SimpleNamespace(latents=posterior.mean)
    pipeline = SimpleNamespace(vae=model)
    prepare = StableDiffusionXLImg2ImgPipeline.prepare_latents
    images = torch.zeros(2, 3, 64, 96)
    expected = prepare(pipeline, images, None, 2, 1, torch.float32, "cpu", add_noise=False)
    assert not torch.allclose(expected, posterior.mean * 0.5, atol=0.1)
    encoder = sd(playground_folder, scaled=True)
    assert_close(encode(encoder), expected)
    assert_close(encode(sd(playground_folder)), posterior.mean)
    contract = encoder.contract(UPRIGHT)
    assert contract.to_dict()["latents_std"] == [8.4927, 5.9022, 6.5498, 5.3]
    assert Contract.from_dict(json.loads(json.dumps(contract.to_dict()))).sha256 == contract.sha256
    unscaled = sd(playground_folder).contract(UPRIGHT)
    assert [name for name, _, _ in unscaled.difference(contract)] == ["scaled"]


def test_scaled_latents_decode_to_the_picture_again(playground_folder: Path) -> None:
    """By the formula of diffusers' text-to-image pipelines: latents * std / scaling_factor + mean."""
    contract = sd(playground_folder, scaled=True).contract(UPRIGHT)
    decoder = LatentDecoder(model=str(playground_folder))
    space = Decodable(decoder).recorded(contract, "here")
    stored = encode(sd(playground_folder, scaled=True)).float()
    model = AutoencoderKL.from_pretrained(playground_folder).eval()
    mean, std = (
        torch.tensor(model.config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std")
    )
    with torch.inference_mode():
        images = model.decode(stored * std / model.config.scaling_factor + mean).sample
        pixels = decoder.load()(stored, space.scale, space.shift)["pixels"]
    expected = (127.5 * images + 128).clamp(0, 255).permute(0, 2, 3, 1)
    assert (pixels.float() + 0.5 - expected).abs().max() <= 1
    assert expected.std() > 5
    other = replace(contract, latents_std=[8.4927, 5.9022, 6.5498, 5.4])
    with pytest.raises(ContractError, match="it belongs to another autoencoder"):
        Decodable(decoder).recorded(other, "here")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"crop": "centre"}, "crop=centre: choose one of adm, resize, bucket, original"),
        ({"posterior": "mode"}, "posterior=mode: choose one of mean, sample, moments"),
        ({"size": 250}, "size=250: must be a positive multiple of 8"),
        ({"size": 0}, "size=0: must be a positive multiple of 8"),
        ({"posterior": "moments", "scaled": True}, "moments are stored unscaled"),
        ({"crop": "bucket", "buckets": ["1024*1024"]}, "1024\\*1024"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Autoencoder(name="sd_vae", model="", weights=Random(), **options).contract(UPRIGHT)
