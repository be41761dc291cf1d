"""Kernel Inception Distance (Bińkowski et al., 2018, arXiv:1801.01401)."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from latentkit.errors import UsageError
from latentkit.evaluation.metrics.feature_bank import POOLED, FeatureBank


class KID(FeatureBank):
    """Unbiased squared MMD under k(x, y) = (x.y / d + 1)^3, over random subsets: their mean and deviation.

    The subsets are those that torch-fidelity draws with the same seed, the
    generated side being its first input, when the pictures stand in the same order. In float64.

    Args:
        subsets: how many.
        subset_size: pictures of each side in one; no side may have fewer.
        seed: of the draws.
        features, statistics: as in `FeatureBank`.
    """

    name = "kid"
    min_samples_option = "subset_size"
    compares = True

    def __init__(
        self,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 2020,
        features: str = POOLED,
        statistics: str = "pool3",
    ) -> None:
        super().__init__(features, statistics)
        if subsets < 1 or subset_size < 2:
            raise UsageError("kid: subsets is at least 1, subset_size at least 2")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def nonstandard_reason(self) -> str | None:
        """Anything but 100 subsets of 1000; which ones makes less than their deviation."""
        if (self.subsets, self.subset_size) != (100, 1000):
            return f"subsets={self.subsets}, subset_size={self.subset_size}"
        return self._other_features(POOLED)

    def min_samples(self) -> int:
        """A subset."""
        return self.subset_size

    def compute(self) -> dict[str, float]:
        """``kid`` and ``kid_std``, the population deviation over the subsets."""
        generated, reference = self.kept("generated"), self.kept("reference")
        generator = np.random.RandomState(self.seed)

        def subset(features: torch.Tensor) -> torch.Tensor:
            """[m, d + 1], whose inner products are x.y / d + 1."""
            chosen = generator.choice(len(features), self.subset_size, replace=False)
            rows = features[torch.from_numpy(chosen).to(features.device)].double()
            return F.pad(rows / math.sqrt(features.shape[1]), (0, 1), value=1.0)

        distances = [_squared_mmd(subset(generated), subset(reference)) for _ in range(self.subsets)]
        return {self.name: float(np.mean(distances)), f"{self.name}_std": float(np.std(distances))}


def _squared_mmd(first: torch.Tensor, second: torch.Tensor) -> float:
    """Under the cube of inner products, of samples [m, n] each; no sample is compared with itself."""
    size = len(first)
    own = sum(_similarity(side, side) - side.square().sum(dim=1).pow(3).sum() for side in (first, second))
    return float(own / (size * (size - 1)) - 2 * _similarity(first, second) / size**2)


def _similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The kernel's sum over all pairs."""
    products = (first @ second.T).flatten()
    return products.square() @ products
