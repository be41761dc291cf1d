"""A DINOv3 network behind the resize that its own image processor has."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Resized(nn.Module):
    """Antialiased bilinear resize of unrounded floats, then the network.

    Args:
        network: `latentkit.encoders.networks.DINOv3Network`.
        size: of both sides.
    """

    def __init__(self, network: nn.Module, *, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def resize(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..255 -> float32 [B, size, size, 3] in 0..255."""
        planes = pixels.permute(0, 3, 1, 2).float()
        planes = functional.interpolate(planes, (self.size, self.size), mode="bilinear", antialias=True)
        return planes.permute(0, 2, 3, 1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, H, W, 3] -> ``dinov3`` [B, D] float32."""
        return {"dinov3": self.network(self.resize(pixels))["embeddings"]}
