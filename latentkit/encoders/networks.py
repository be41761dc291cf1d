"""The networks as the loop runs them: stored-dtype outputs from uint8 pixels or token ids, on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentkit.encoders.contract import Vector
from latentkit.runtime.forward import FINITE


def _nchw(pixels: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, C, H, W], contiguous: the convolutions' weights decide their memory format."""
    return pixels.permute(0, 3, 1, 2).contiguous()


class DINOv3Network(nn.Module):
    """A DINOv3 ViT behind its normalisation.

    Args:
        vit: `transformers.DINOv3ViTModel`.
        mean, std: per channel, of pixels in [0, 1].
        patches: whether patch tokens are given too.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: Any, *, mean: Sequence[float], std: Sequence[float], patches: bool) -> None:
        super().__init__()
        self.vit, self.patches = vit, patches
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..255 -> [B, 3, H, W] float32, (x / 255 - mean) / std."""
        return _nchw((pixels.float() / 255 - self.mean) / self.std)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """``embeddings`` [B, D] float32; with ``patches`` also ``patches`` [B, H/16 * W/16, D] float32."""
        hidden = self.vit(pixel_values=self.normalise(pixels))
        outputs = {"embeddings": hidden.pooler_output.float()}
        if self.patches:
            first = 1 + self.vit.config.num_register_tokens
            outputs["patches"] = hidden.last_hidden_state[:, first:].float()
        return outputs


def _by_channel(value: Vector, like: Tensor) -> float | Tensor:
    """One number as it is; numbers a channel as a tensor [C, 1, 1] beside `like`."""
    return like.new_tensor(value).view(-1, 1, 1) if isinstance(value, tuple) else value


class EncodingNetwork(nn.Module):
    """The encoding half of an autoencoder: pixels to what is stored of the posterior.

    The posterior is N(mean, exp(logvar)) with logvar clamped to [-30, 20], as diffusers has it.

    Args:
        half: images [B, 3, H, W] in [-1, 1] to moments [B, 2C, H/f, W/f].
        posterior: ``mean``, ``sample`` or ``moments``.
        normalisation: (shift, scale): what is stored is (z - shift) * scale; None leaves z as it is.
        flip: whether mirrored pictures are encoded too, in a batch of their own: the others' numbers are
            the same bits with and without.
    """

    def __init__(
        self, half: nn.Module, *, posterior: str, normalisation: tuple[Vector, Vector] | None, flip: bool
    ) -> None:
        super().__init__()
        self.encoder, self.posterior, self.normalisation, self.flip = half, posterior, normalisation, flip

    def forward(
        self, pixels: Tensor, noise: Tensor | None = None, noise_flip: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``latents`` in float16: [B, C, H/f, W/f]; [B, 2C, H/f, W/f], mean before logvar, for ``moments``.

        With ``flip`` also ``latents_flip``, the same of the pictures mirrored left to right.

        Args:
            pixels: [B, H, W, 3] uint8.
            noise, noise_flip: [B, C, H/f, W/f] standard normal; for ``posterior="sample"`` only.
        """
        outputs = {"latents": self._encode(pixels, noise)}
        if self.flip:
            outputs["latents_flip"] = self._encode(pixels.flip(2), noise_flip)
        return outputs

    def _encode(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        images = _nchw(pixels.float() / 127.5 - 1)
        moments: Tensor = self.encoder(images).float()
        mean, logvar = moments.chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        if self.posterior == "moments":
            return torch.cat([mean, logvar], dim=1).half()
        latents = mean if noise is None else mean + torch.exp(logvar / 2) * noise
        if self.normalisation is not None:
            shift, scale = (_by_channel(value, latents) for value in self.normalisation)
            latents = (latents - shift) * scale
        return latents.half()


class DecodingNetwork(nn.Module):
    """The decoding half of an autoencoder, from stored latents to uint8.

    Args:
        half: latents [B, C, h, w] to images [B, 3, f h, f w] in about [-1, 1].
        rounding: ``round`` or ``truncate``, as in `LatentDecoder`.
    """

    def __init__(self, half: nn.Module, *, rounding: str) -> None:
        super().__init__()
        self.decoder, self.rounding = half, rounding

    def forward(self, latents: Tensor, scale: Vector, shift: Vector) -> dict[str, Tensor]:
        """``pixels`` [B, f h, f w, 3] uint8, and whether each was `FINITE` before it was rounded, [B] bool.

        Args:
            latents: [B, C, h, w] of any float type; z = latents / scale + shift is decoded.
        """
        stored = latents.float()
        z = stored / _by_channel(scale, stored) + _by_channel(shift, stored)
        images: Tensor = self.decoder(z).float()
        finite = torch.isfinite(images).flatten(1).all(1)
        return {"pixels": self.to_uint8(images).permute(0, 2, 3, 1).contiguous(), FINITE: finite}

    def to_uint8(self, images: Tensor) -> Tensor:
        """From [-1, 1], float32, clamped and cut to integers once."""
        if self.rounding == "round":
            return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
        return (((images + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)


class T5Network(nn.Module):
    """A `transformers.T5EncoderModel` that gives its last hidden states in float16."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Token ids and 0/1 mask, both int64 [B, L], to ``hidden`` [B, L, D] float16."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return {"hidden": states.last_hidden_state.half()}
