"""Latents to pictures: the decoding half of an autoencoder, to uint8 with one rounding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latentkit.encoders import VAE, Pretrained, Random
from latentkit.encoders.encoder import PRECISIONS
from latentkit.errors import UsageError

if TYPE_CHECKING:
    from latentkit.evaluation.networks import DecoderNetwork

ROUNDINGS = ("round", "truncate")


class _Autoencoder(VAE):
    """The encoder's checks and loading, for a model that is configured elsewhere."""

    @property
    def where(self) -> str:
        return "decoder"


@dataclass(frozen=True, kw_only=True)
class VAEDecoder:
    """The decoder of a diffusers `AutoencoderKL`, declared; it imports no torch until `load` is called.

    Attributes:
        model: hub id or local folder; not used with random weights.
        subfolder: where in the repository or folder the autoencoder lies.
        revision: the hub revision; None takes the newest.
        latent_channels: C, 4 (Stable Diffusion) or 16 (Flux); a checkpoint with another number is refused.
        weights: pretrained or random.
        batch_size: latents of one forward pass.
        precision: arithmetic of the forward pass, applied by the caller. ``auto`` has to be replaced
            (`dataclasses.replace`) by what it stands for before `identity` is asked for.
        compile: whether the network goes through `torch.compile`.
        channels_last: whether convolutions run in the NHWC memory format.
        rounding: from x in [-1, 1] to uint8. ``round``: clamp(127.5 x + 128, 0, 255) cut to an integer, as
            DiT's sampling scripts and torchvision's `save_image` do. ``truncate``: clamp((x + 1) / 2, 0, 1)
            * 255 cut to an integer, as latent-diffusion's scripts do, and ADM's but for float rounding: half
            a level darker on average.
    """

    model: str
    latent_channels: int
    subfolder: str | None = None
    revision: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)
    batch_size: int = 8
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = False
    rounding: str = "round"

    def __post_init__(self) -> None:
        for option, choices in (("precision", PRECISIONS), ("rounding", ROUNDINGS)):
            if (value := getattr(self, option)) not in choices:
                raise UsageError(f"decoder.{option}={value}: choose one of {', '.join(choices)}")
        if self.batch_size < 1:
            raise UsageError(f"decoder.batch_size={self.batch_size}: must be at least 1")
        _ = self.autoencoder

    @cached_property
    def autoencoder(self) -> VAE:
        """The autoencoder whose decoder this is: its checkpoint is found, checked and hashed once."""
        return _Autoencoder(
            name="decoder",
            model=self.model,
            subfolder=self.subfolder,
            revision=self.revision,
            latent_channels=self.latent_channels,
            weights=self.weights,
        )

    def _checked(self) -> VAE:
        """The same, refused when its checkpoint's latent has another shape than declared."""
        _ = self.autoencoder.config
        return self.autoencoder

    @property
    def pretrained(self) -> bool:
        """False marks random weights: pictures of the right shape that mean nothing."""
        return not isinstance(self.weights, Random)

    @property
    def gpu_precision(self) -> str:
        """TF32 where the model's configuration asks for an upcast (Flux), else float16 autocast."""
        return "tf32" if self.autoencoder.config.get("force_upcast") else "16-mixed"

    @property
    def factors(self) -> tuple[float, float]:
        """(scaling_factor, shift_factor) of the model: a diffusion model's latent is (z - shift) * scaling.

        Raises:
            LatentkitError: the weights cannot be had or are damaged.
        """
        scaling, shift = self.autoencoder.factors
        return scaling, shift or 0.0

    def identity(self) -> dict[str, Any]:
        """JSON values: all that changes the pictures. Fetches and hashes the weights.

        Raises:
            LatentkitError: the weights cannot be had or are damaged.
        """
        if self.precision == "auto":
            raise ValueError("precision 'auto' has to be resolved before the identity is asked for")
        if isinstance(self.weights, Random):
            origin: dict[str, Any] = {
                "model": "random AutoencoderKL",
                "revision": None,
                "weights": self.weights.label,
            }
        else:
            files = self._checked().checkpoint
            origin = {"model": files.model, "revision": files.revision, "weights": dict(files.sha256)}
        return {
            **origin,
            "pretrained": self.pretrained,
            "precision": self.precision,
            "rounding": self.rounding,
        }

    def load(self) -> DecoderNetwork:
        """The network: on the CPU, float32, in eval mode, without gradients; compiled at its first call.

        Raises:
            LatentkitError: the weights do not fit the architecture.
        """
        import torch

        from latentkit.evaluation.networks import DecoderNetwork

        network = DecoderNetwork(
            self._checked().autoencoder(), rounding=self.rounding, channels_last=self.channels_last
        )
        network.eval().requires_grad_(False)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            network.compile(dynamic=False)
        return network
