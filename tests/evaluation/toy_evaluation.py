"""Sets, a feature network and metrics whose numbers numpy can compute again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from recipes import photo

from latentkit.encoders import Encoder
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.picture_set import LatentSpace, PictureSet
from latentkit.pixels.geometry import CropToMultiple, Geometry


def photos(count: int, size: int = 16, first: int = 0) -> np.ndarray:
    """uint8 [count, size, size, 3]."""
    return np.stack([photo(first + number, size, size) for number in range(count)])


class ToySet(PictureSet):
    """Pictures or latents in memory.

    Attributes:
        calls: the positions that were asked for, in the order in which they were given.
        seconds: what a picture takes.
    """

    def __init__(
        self,
        pixels: np.ndarray | None = None,
        *,
        latents: np.ndarray | None = None,
        space: LatentSpace | None = None,
        originals: np.ndarray | None = None,
        name: str = "toy",
        seconds: float = 0.0,
    ) -> None:
        self.name, self.latents = name, space
        self.originals = None if originals is None else ToySet(originals, name="originals")
        stored = latents if pixels is None else pixels
        assert stored is not None
        self._stored = stored
        self.keys = [f"k{number:05d}" for number in range(len(stored))]
        self.calls: list[int] = []
        self.seconds = seconds

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        assert len(positions)
        for position in positions.tolist():
            self.calls.append(position)
            time.sleep(self.seconds)
            yield self._stored[position]

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True, kw_only=True)
class MeanColour(Encoder):
    """Output ``rgb``: each channel's mean, by a matrix product, in 0..255 times `gain`.

    Attributes:
        fits: more pictures than these at once run out of memory.
    """

    name: str = "mean"
    gain: float = 1.0
    fits: int = 10**6
    geometry: ClassVar[Geometry] = CropToMultiple(multiple=1)
    stored: ClassVar[str] = "rgb"
    outputs: ClassVar[dict[str, Any]] = {"rgb": {"shape": [3], "dtype": "float32"}}

    def build(self) -> torch.nn.Module:
        return MeanNetwork(self.gain, self.fits)


class MeanNetwork(torch.nn.Module):
    """Keeps the size of every batch that it was given."""

    def __init__(self, gain: float, fits: int) -> None:
        super().__init__()
        self.gain, self.fits = gain, fits
        self.seen: list[int] = []

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(len(pixels))
        if len(pixels) > self.fits:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return {"rgb": (pixels.float().mean((1, 2)) @ (self.gain * torch.eye(3))).float()}


class WeightedMean(EvaluationMetric):
    """``distance`` of the sums of both sides, each picture's features times its place."""

    features = ("mean.rgb",)
    compares = True
    statistics = ("toy_sum", "toy_count")

    def __init__(self) -> None:
        super().__init__()
        for side in ("generated", "reference"):
            zero = torch.zeros(3, dtype=torch.float64)
            self.add_state(f"{side}_sum", zero, dist_reduce_fx="sum")
            self.add_state(f"{side}_count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor, side: Side) -> None:
        weighted = features["mean.rgb"].double() * (1 + positions)[:, None]
        setattr(self, f"{side}_sum", getattr(self, f"{side}_sum") + weighted.sum(0))
        setattr(self, f"{side}_count", getattr(self, f"{side}_count") + len(positions))

    def compute(self) -> dict[str, float]:
        reference = self.reference_statistics()
        difference = self.generated_sum.cpu().numpy() - reference["toy_sum"]
        return {
            "distance": float(np.sqrt(np.square(difference).sum())),
            "generated": int(self.generated_count),
            "reference": int(reference["toy_count"]),
        }

    def reference_statistics(self) -> dict[str, np.ndarray]:
        if self.loaded is not None:
            return dict(self.loaded)
        return {"toy_sum": self.reference_sum.cpu().numpy(), "toy_count": self.reference_count.cpu().numpy()}


class Difference(EvaluationMetric):
    """``mse`` of pictures and originals."""

    features = (PIXELS, ORIGINALS)
    compares = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor, side: Side) -> None:
        difference = features[PIXELS].double() - features[ORIGINALS].double()
        error = difference.square().flatten(1).mean(1)
        self.latest_psnr = 10 * torch.log10(255**2 / error)
        self.total = self.total + error.sum()
        self.count = self.count + len(positions)

    def compute(self) -> dict[str, float]:
        return {"mse": float(self.total / self.count)}


def weighted_sum(pixels: np.ndarray) -> np.ndarray:
    """What `WeightedMean` adds up, by numpy, [3] float64."""
    means = pixels.astype(np.float64).mean((1, 2))
    return (means * np.arange(1, len(pixels) + 1)[:, None]).sum(0)
