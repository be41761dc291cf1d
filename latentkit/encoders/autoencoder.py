"""Both halves of latent diffusion's autoencoders (Rombach et al., 2022, https://arxiv.org/abs/2112.10752)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from latentkit.encoders.contract import Contract, Vector, normalisation
from latentkit.encoders.encoder import PretrainedEncoder
from latentkit.encoders.weights import Layout
from latentkit.errors import UsageError
from latentkit.pixels import AdmCrop, BucketCrop, CropToMultiple, Geometry, Pillow, ResizeSquare
from latentkit.pixels.geometry import ASPECT_BUCKETS

if TYPE_CHECKING:
    import torch

CROPS = ("adm", "resize", "bucket", "original")
POSTERIORS = ("mean", "sample", "moments")
ROUNDINGS = ("round", "truncate")


@dataclass(frozen=True, kw_only=True)
class Autoencoder(PretrainedEncoder):
    """A picture's latent under a diffusers `AutoencoderKL` of any size.

    Channels C, spatial factor f and normalisation come from the model's configuration.
    Input: RGB uint8 as the crop gives it, to [-1, 1] by x / 127.5 - 1.
    Output: ``latents`` float16, [C, H/f, W/f]; [2C, H/f, W/f] for ``moments``: the mean, then the logarithm
    of the variance clamped to [-30, 20]. Stored as the encoder gives it unless ``scaled``.

    A subclass for another class of diffusers gives ``network_class`` and, where they differ from
    AutoencoderKL's, `channels`, `factor`, `scaling`, `random_config`, `encoding_half` and `decoding_half`.

    Attributes:
        subfolder: where in the repository or folder the autoencoder lies.
        architecture: what the published config.json says where it departs from Stable Diffusion's
            architecture; read for random weights only.
        crop: ``adm`` (ADM's centre crop), ``resize`` (to a square, aspect ratio given up), ``bucket`` (cover
            the nearest aspect bucket and crop) or ``original`` (crop to multiples of f).
        size: side in pixels for ``adm`` and ``resize``; a multiple of f.
        buckets: ``WxH`` in pixels for ``bucket``; None is the usual seven of about a megapixel.
        posterior: ``mean``, ``sample`` (mean + std * noise; the noise depends on ``seed`` and the key alone)
            or ``moments``.
        seed: of ``sample``.
        scaled: whether (z - shift) * scale is stored in place of z, see `normalisation`.
        flip: whether ``latents_flip`` is stored too, of the same shape and type: the latent of the cropped
            picture mirrored left to right. Where the crop's margins are odd that is not the crop of the
            mirrored picture, but up to a pixel beside it. Under ``sample`` it has noise of its own.
    """

    network_class: ClassVar[str] = "AutoencoderKL"

    subfolder: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict, hash=False)
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
        if self.scaled and self.posterior == "moments":
            raise UsageError(f"{self.where}: moments are stored unscaled; leave scaled=false")

    @property
    def channels(self) -> int:
        """C of the latents."""
        return self.config.get("latent_channels", 4)

    @property
    def factor(self) -> int:
        """Pixels of a side to one of the latent's: a halving after each block but the last."""
        return 1 << (len(self.config.get("block_out_channels", (64,))) - 1)

    @property
    def scaling(self) -> dict[str, Any]:
        """The fields of the contract that say how the model's latents are normalised.

        What config.json leaves out is AutoencoderKL's default.
        """
        config = {"scaling_factor": 0.18215, **self.config}
        names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
        return {name: config.get(name) for name in names}

    @property
    def normalisation(self) -> tuple[Vector, Vector]:
        """(shift, scale): the model's own pipeline feeds its denoiser (z - shift) * scale.

        Raises:
            LatentkitError: the weights cannot be had or are damaged.
        """
        return normalisation(**self.scaling)

    @property
    def layout(self) -> Layout:
        return Layout(
            weights="diffusion_pytorch_model",
            marker="_class_name",
            architecture=self.network_class,
            subfolder=self.subfolder or "",
        )

    @property
    def geometry(self) -> Geometry:
        """See `Encoder.geometry`. Raises UsageError where a side is no multiple of the spatial factor."""
        if self.crop == "original":
            return CropToMultiple(multiple=self.factor)
        if self.crop == "bucket":
            return BucketCrop(buckets=tuple(self.buckets or ASPECT_BUCKETS), multiple=self.factor)
        if self.size < 1 or self.size % self.factor:
            raise UsageError(f"{self.where}.size={self.size}: must be a positive multiple of {self.factor}")
        return AdmCrop(size=self.size) if self.crop == "adm" else ResizeSquare(size=self.size)

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
        channels = self.channels * (2 if self.posterior == "moments" else 1)
        square = self.crop in {"adm", "resize"}
        sides = [self.size // self.factor] * 2 if square else [f"H/{self.factor}", f"W/{self.factor}"]
        names = ["latents", "latents_flip"] if self.flip else ["latents"]
        return {name: {"shape": [channels, *sides], "dtype": "float16"} for name in names}

    def describe_input(self) -> dict[str, Any]:
        described = {**super().describe_input(), "range": [-1, 1]}
        return described | ({"flip": "the cropped picture mirrored"} if self.flip else {})

    def contract(self, decoder: Pillow) -> Contract:
        """See `Encoder.contract`; the model's normalisation is recorded whether applied or not."""
        return replace(super().contract(decoder), **self.scaling, scaled=self.scaled)

    def random_config(self, size: str) -> dict[str, Any]:
        """Stable Diffusion's with what `architecture` says; or one of its shape, a few channels wide."""
        config: dict[str, Any] = {
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "force_upcast": False,
            **self.architecture,
        }
        blocks = len(config["block_out_channels"])
        if size == "small":
            config |= {
                "block_out_channels": (*(8,) * (blocks - 2), 16, 16)[:blocks],
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "mid_block_add_attention": False,
            }
        sides = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
        return config | {name: (block,) * blocks for name, block in sides.items()}

    def autoencoder(self) -> Any:
        """The whole diffusers model: on the CPU, float32, in eval mode.

        Raises:
            LatentkitError: the weights do not fit the architecture.
        """
        import diffusers

        from latentkit.encoders.loading import load_model

        network = getattr(diffusers, self.network_class)
        return load_model(self, network, network.from_config).eval()

    def encoding_half(self, autoencoder: Any) -> torch.nn.Module:
        """Pictures [B, 3, H, W] in [-1, 1] to moments [B, 2C, H/f, W/f]: mean, then log of the variance."""
        from torch import nn

        return nn.Sequential(autoencoder.encoder, autoencoder.quant_conv or nn.Identity())

    def decoding_half(self, autoencoder: Any) -> torch.nn.Module:
        """Latents z [B, C, h, w] to pictures [B, 3, f h, f w] in about [-1, 1]."""
        from torch import nn

        return nn.Sequential(autoencoder.post_quant_conv or nn.Identity(), autoencoder.decoder)

    def build(self) -> torch.nn.Module:
        from latentkit.encoders.networks import EncodingNetwork

        half = self.encoding_half(self.autoencoder())
        normalisation = self.normalisation if self.scaled else None
        return EncodingNetwork(half, posterior=self.posterior, normalisation=normalisation, flip=self.flip)

    def batch(
        self, keys: Sequence[str], inputs: np.ndarray | torch.Tensor | Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """See `Encoder.batch`; ``posterior="sample"`` adds ``noise`` [B, C, H/f, W/f] float32.

        With ``flip`` it also adds ``noise_flip``, likewise.
        """
        import torch

        tensors, facts = super().batch(keys, inputs)
        if self.posterior == "sample":
            _, height, width, _ = tensors["pixels"].shape
            shape = (self.channels, height // self.factor, width // self.factor)
            for name in ("noise", "noise_flip") if self.flip else ("noise",):
                flip = name == "noise_flip"
                noise = np.stack([posterior_noise(self.seed, key, shape, flip=flip) for key in keys])
                tensors[name] = torch.from_numpy(noise)
        return tensors, facts


@dataclass(frozen=True, kw_only=True)
class LatentDecoder(Autoencoder):
    """The same declaration for the way back: its network decodes latents to uint8 pictures.

    One for a subclass of `Autoencoder` derives from `LatentDecoder` and that subclass, in this order.

    Attributes:
        rounding: from x in [-1, 1] to uint8. ``round``: clamp(127.5 x + 128, 0, 255) cut to an integer, as
            DiT's sampling scripts and torchvision's `save_image` do. ``truncate``: clamp((x + 1) / 2, 0, 1)
            * 255 cut to an integer, as latent-diffusion's scripts do, and ADM's but for float rounding: half
            a level darker on average.
    """

    name: str = "decoder"
    rounding: str = "round"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("rounding", ROUNDINGS)

    @property
    def where(self) -> str:
        return self.name

    def identity(self) -> dict[str, Any]:
        """JSON values: all that changes the pictures. Fetches and hashes the weights.

        Raises:
            LatentkitError: the weights cannot be had or are damaged.
        """
        self.require_precision()
        arithmetic = {"precision": self.precision, "rounding": self.rounding}
        return {**self.origin, "pretrained": self.pretrained, **arithmetic}

    def build(self) -> torch.nn.Module:
        from latentkit.encoders.networks import DecodingNetwork

        return DecodingNetwork(self.decoding_half(self.autoencoder()), rounding=self.rounding)


def posterior_noise(seed: int, key: str, shape: tuple[int, ...], *, flip: bool = False) -> np.ndarray:
    """Standard normal float32 that depends on the seed and the key alone, and on whether it is a mirror's.

    It is in stored bytes, and so it stays; `latentkit.reading.shards`, four times as fast, draws what is not.
    Drawn by numpy's `RandomState`, whose stream is frozen for good (NEP 19), seeded with the sha256 of
    ``<seed>:<key>``, or ``flip:<seed>:<key>``, as eight big-endian 32-bit words.
    """
    name = f"flip:{seed}:{key}" if flip else f"{seed}:{key}"
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=">u4")
    return np.random.RandomState(words.astype(np.uint32)).standard_normal(shape).astype(np.float32)
