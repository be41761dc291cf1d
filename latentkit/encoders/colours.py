from dataclasses import dataclass

import torch

from latentkit.encoders import Encoder
from latentkit.pixels import ResizeSquare


class Statistics(torch.nn.Module):
    def forward(self, pixels):  # uint8 [B, H, W, 3], on the device
        colours = pixels.flatten(1, 2) / 255
        return {"statistics": torch.cat([colours.mean(1), colours.std(1, correction=0)], dim=1)}


@dataclass(frozen=True, kw_only=True)
class Colours(Encoder):
    """Mean and standard deviation of red, green and blue in [0, 1]: 6 float32."""

    size: int = 64
    stored = "mean and standard deviation"
    outputs = {"statistics": {"shape": [6], "dtype": "float32"}}

    @property
    def geometry(self):
        return ResizeSquare(size=self.size)

    def build(self):
        return Statistics()
