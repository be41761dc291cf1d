"""KL autoencoders of latent diffusion (Rombach et al., 2022, https://arxiv.org/abs/2112.10752)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.encoders.pretrained import PretrainedEncoder
from latentkit.encoders.weights import Layout
from latentkit.errors import LatentkitError, UsageError
from latentkit.pixels.geometry import (
    ASPECT_BUCKETS,
    AdmCrop,
    BucketCrop,
    CropToMultiple,
    Geometry,
    ResizeSquare,
)

if TYPE_CHECKING:
    import torch

CROPS = ("adm", "resize", "bucket", "original")
POSTERIORS = ("mean", "sample", "moments")
FACTOR = 8
"""Pixels of a side to one of the latent's: three halvings."""

PUBLISHED: dict[int, dict[str, Any]] = {
    4: {  # stabilityai/sd-vae-ft-mse
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "force_upcast": False,
    },
    16: {  # black-forest-labs/FLUX.1-dev, vae
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "force_upcast": True,
    },
}
"""Latent channels -> what the published autoencoders do not share."""


@dataclass(frozen=True, kw_only=True)
class VAE(PretrainedEncoder):
    """A picture's latent under a diffusers `AutoencoderKL`: Stable Diffusion's, Flux's, or one of their kind.

    Input: RGB uint8 as the crop gives it, to [-1, 1] by x / 127.5 - 1.
    Output: ``latents`` float16, [C, H/8, W/8]; [2C, H/8, W/8] for ``moments``: the mean, then the logarithm
    of the variance clamped to [-30, 20]. Stored as the encoder gives it unless ``scaled``.

    Attributes:
        latent_channels: C, 4 (Stable Diffusion) or 16 (Flux); a checkpoint with another number is refused.
        subfolder: where in the repository or folder the autoencoder lies.
        crop: ``adm`` (ADM's centre crop), ``resize`` (to a square, aspect ratio given up), ``bucket`` (cover
            the nearest aspect bucket and crop) or ``original`` (crop to multiples of 8).
        size: side in pixels for ``adm`` and ``resize``; a multiple of 8.
        buckets: ``WxH`` in pixels for ``bucket``; None is the usual seven of about a megapixel.
        posterior: ``mean``, ``sample`` (mean + std * noise; the noise depends on ``seed`` and the key alone)
            or ``moments``.
        seed: of ``sample``.
        scaled: whether (z - shift_factor) * scaling_factor is stored in place of z.
        flip: whether ``latents_flip`` is stored too, of the same shape and type: the latent of the cropped
            picture mirrored left to right. Where the crop's margins are odd that is not the crop of the
            mirrored picture, but up to a pixel beside it. Under ``sample`` it has noise of its own.
    """

    network_class: ClassVar[str] = "AutoencoderKL"

    latent_channels: int
    subfolder: str | None = None
    crop: str = "adm"
    size: int = 256
    buckets: list[str] | None = field(default=None, hash=False)
    posterior: str = "mean"
    seed: int = 0
    scaled: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("crop", CROPS)
        self.require_choice("posterior", POSTERIORS)
        if self.latent_channels not in PUBLISHED:
            choices = ", ".join(map(str, PUBLISHED))
            raise UsageError(f"{self.where}.latent_channels={self.latent_channels}: choose one of {choices}")
        if self.size < FACTOR or self.size % FACTOR:
            raise UsageError(f"{self.where}.size={self.size}: must be a positive multiple of {FACTOR}")
        if self.scaled and self.posterior == "moments":
            raise UsageError(f"{self.where}: moments are stored unscaled; leave scaled=false")
        BucketCrop(buckets=self._buckets)

    @property
    def _buckets(self) -> tuple[str, ...]:
        return ASPECT_BUCKETS if self.buckets is None else tuple(self.buckets)

    @property
    def layout(self) -> Layout:
        return Layout(
            weights="diffusion_pytorch_model",
            marker="_class_name",
            architecture="AutoencoderKL",
            subfolder=self.subfolder or "",
        )

    @property
    def geometry(self) -> Geometry:
        if self.crop == "adm":
            return AdmCrop(size=self.size)
        if self.crop == "resize":
            return ResizeSquare(size=self.size)
        return BucketCrop(buckets=self._buckets) if self.crop == "bucket" else CropToMultiple(multiple=FACTOR)

    @property
    def gpu_precision(self) -> str:
        """TF32 where the model's configuration asks for an upcast (Flux), else float16 autocast.

        From float32 on an H200, random weights: TF32 0.17% (Flux), float16 0.16%, bfloat16 1.3% (Stable
        Diffusion).
        """
        return "tf32" if self.config.get("force_upcast") else "16-mixed"

    @property
    def stored(self) -> str:
        if self.posterior == "sample":
            return f"posterior_sample:{self.seed}"
        return "posterior_mean" if self.posterior == "mean" else "moments"

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        channels = self.latent_channels * (2 if self.posterior == "moments" else 1)
        square = self.crop in {"adm", "resize"}
        sides = [self.size // FACTOR] * 2 if square else [f"H/{FACTOR}", f"W/{FACTOR}"]
        names = ["latents", "latents_flip"] if self.flip else ["latents"]
        return {name: {"shape": [channels, *sides], "dtype": "float16"} for name in names}

    def describe_input(self, *, orient: bool) -> dict[str, Any]:
        described = {**super().describe_input(orient=orient), "range": [-1, 1]}
        return described | ({"flip": "the cropped picture mirrored"} if self.flip else {})

    @property
    def config(self) -> Mapping[str, Any]:
        """See `Encoder.config`. Raises LatentkitError when the checkpoint's latent has another shape."""
        config = super().config
        channels, blocks = config.get("latent_channels", 4), config.get("block_out_channels", ())
        if channels != self.latent_channels or 2 ** (len(blocks) - 1) != FACTOR:
            raise LatentkitError(
                f"{self.where}.model={self.model}: wrong architecture: config.json has {channels} "
                f"latent channels and {len(blocks)} blocks, {self.latent_channels} and 4 are needed"
            )
        return config

    def contract(self, *, orient: bool) -> Contract:
        """See `Encoder.contract`; the factors are the model's, recorded whether applied or not."""
        scale, shift = self.factors
        contract = super().contract(orient=orient)
        return replace(contract, scaling_factor=scale, shift_factor=shift, scaled=self.scaled)

    @property
    def factors(self) -> tuple[float, float | None]:
        """(scaling_factor, shift_factor); what config.json leaves out is AutoencoderKL's default."""
        return self.config.get("scaling_factor", 0.18215), self.config.get("shift_factor")

    def random_config(self, size: str) -> dict[str, Any]:
        """The published autoencoder with that latent; or one of its shape, a few channels wide."""
        body = (
            {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
            if size == "real"
            else {
                "block_out_channels": (8, 8, 16, 16),
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "mid_block_add_attention": False,
            }
        )
        return {
            **PUBLISHED[self.latent_channels],
            **body,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        }

    def autoencoder(self) -> Any:
        """The whole `diffusers.AutoencoderKL`, decoder included: on the CPU, float32, in eval mode.

        Raises:
            LatentkitError: the weights do not fit the architecture.
        """
        from diffusers import AutoencoderKL

        from latentkit.encoders.loading import load_model

        return load_model(self, AutoencoderKL, AutoencoderKL.from_config).eval()

    def build(self) -> torch.nn.Module:
        from latentkit.encoders.networks import VAENetwork

        scale, shift = self.factors
        return VAENetwork(
            self.autoencoder(),
            posterior=self.posterior,
            scale=scale if self.scaled else 1.0,
            shift=(shift or 0.0) if self.scaled else 0.0,
            channels_last=self.channels_last,
            flip=self.flip,
        )

    def batch(
        self, keys: Sequence[str], inputs: np.ndarray | torch.Tensor | Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """See `Encoder.batch`; ``posterior="sample"`` adds ``noise`` [B, C, H/8, W/8] float32.

        With ``flip`` it also adds ``noise_flip``, likewise.
        """
        import torch

        tensors, facts = super().batch(keys, inputs)
        if self.posterior == "sample":
            _, height, width, _ = tensors["pixels"].shape
            shape = (self.latent_channels, height // FACTOR, width // FACTOR)
            for name in ("noise", "noise_flip") if self.flip else ("noise",):
                flip = name == "noise_flip"
                noise = np.stack([posterior_noise(self.seed, key, shape, flip=flip) for key in keys])
                tensors[name] = torch.from_numpy(noise)
        return tensors, facts


def posterior_noise(seed: int, key: str, shape: tuple[int, ...], *, flip: bool = False) -> np.ndarray:
    """Standard normal float32 that depends on the seed and the key alone, and on whether it is a mirror's.

    Drawn by numpy's `RandomState`, whose stream is frozen for good (NEP 19), seeded with the sha256 of
    ``<seed>:<key>``, or ``flip:<seed>:<key>``, as eight big-endian 32-bit words.
    """
    name = f"flip:{seed}:{key}" if flip else f"{seed}:{key}"
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=">u4")
    return np.random.RandomState(words.astype(np.uint32)).standard_normal(shape).astype(np.float32)
