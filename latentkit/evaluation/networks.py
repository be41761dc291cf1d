"""The decoder as the loop runs it: uint8 pictures from latents as they are stored, on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class DecoderNetwork(nn.Module):
    """The decoding half of a `diffusers.AutoencoderKL`, from stored latents to uint8.

    Args:
        autoencoder: the whole model; its encoder is not kept.
        rounding: ``round`` or ``truncate``, as in `VAEDecoder`.
        channels_last: memory format of the input.
    """

    def __init__(self, autoencoder: Any, *, rounding: str, channels_last: bool) -> None:
        super().__init__()
        self.decoder: nn.Module = autoencoder.decoder
        self.post_quant_conv: nn.Module = autoencoder.post_quant_conv or nn.Identity()
        self.rounding = rounding
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, latents: Tensor, factor: float, shift: float) -> tuple[Tensor, Tensor]:
        """Pictures [B, 8h, 8w, 3] uint8, and whether each was finite before it was rounded, [B] bool.

        Args:
            latents: [B, C, h, w] of any float type; z = latents / factor + shift is decoded.
        """
        z = (latents.float() / factor + shift).contiguous(memory_format=self.memory_format)
        images: Tensor = self.decoder(self.post_quant_conv(z)).float()
        finite = torch.isfinite(images).flatten(1).all(1)
        return self.to_uint8(images).permute(0, 2, 3, 1).contiguous(), finite

    def to_uint8(self, images: Tensor) -> Tensor:
        """From [-1, 1], float32, clamped and cut to integers once."""
        if self.rounding == "round":
            return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
        return (((images + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)
