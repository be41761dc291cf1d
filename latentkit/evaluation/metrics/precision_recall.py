"""Improved precision and recall (Kynkäänniemi et al., 2019, arXiv:1904.06991)."""

from collections.abc import Iterator

import torch

from latentkit.errors import UsageError
from latentkit.evaluation.metrics.feature_bank import POOLED, FeatureBank
from latentkit.runtime.forward import precision_context

BLOCK = 1 << 24
"""Distances held at a time: 64 MiB of float32."""


class PrecisionRecall(FeatureBank):
    """Which share of each side lies within the other's manifold: in a ball around one of its pictures that
    reaches its k-th nearest neighbour on the same side, the picture itself not counted, the rim included.

    Args:
        neighbours: k.
        distances: ``float32``, Euclidean (torch-fidelity); or ``float16``, their squares as the evaluator of
            guided-diffusion takes them: between 256 and 512, as usual in Inception, in steps of 1/4, by which
            more pictures lie within the rim.
        features, statistics: as in `FeatureBank`.
    """

    name = "precision_recall"
    min_samples_option = "neighbours"
    compares = True

    def __init__(
        self,
        neighbours: int = 3,
        distances: str = "float32",
        features: str = POOLED,
        statistics: str = "pool3",
    ) -> None:
        super().__init__(features, statistics)
        if neighbours < 1:
            raise UsageError("precision_recall: neighbours is at least 1")
        if distances not in DISTANCES:
            raise UsageError(f"precision_recall: distances={distances}: choose one of {', '.join(DISTANCES)}")
        self.neighbours = neighbours
        self._distances = DISTANCES[distances]

    def nonstandard_reason(self) -> str | None:
        """Any k but 3."""
        return f"neighbours={self.neighbours}" if self.neighbours != 3 else self._other_features(POOLED)

    def min_samples(self) -> int:
        """A picture and its neighbours."""
        return self.neighbours + 1

    def compute(self) -> dict[str, float]:
        """``precision``, of generated pictures; ``recall``, of the reference's; ``f_score``, of the two."""
        generated, reference = self.kept("generated"), self.kept("reference")
        generated_radii, reference_radii = self._radii(generated), self._radii(reference)
        realistic = 0
        covered = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
        for rows in _blocks(generated, reference):
            distances = self._distances(generated[rows], reference)
            realistic += int((distances <= reference_radii).any(dim=1).sum())
            covered |= (distances <= generated_radii[rows, None]).any(dim=0)
        precision, recall = realistic / len(generated), covered.double().mean().item()
        both = precision + recall
        f_score = 2 * precision * recall / both if both else 0.0
        return {"precision": precision, "recall": recall, "f_score": f_score}

    def _radii(self, features: torch.Tensor) -> torch.Tensor:
        """Of each picture's ball, [N]. The nearest of all is the picture itself."""
        nearest = self.neighbours + 1
        radii = [
            self._distances(features[rows], features).topk(nearest, dim=1, largest=False).values[:, -1]
            for rows in _blocks(features, features)
        ]
        return torch.cat(radii)


def _euclidean(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    with precision_context("32-true", first.device):
        return torch.cdist(first, second)


def _squared_in_half(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared, each step rounded to float16, with sums in float32; in float32 alone where that overflows."""
    a, b = first.half(), second.half()
    products = (a.float() @ b.float().T).half()
    squared = a.square().sum(dim=1, keepdim=True) - 2 * products + b.square().sum(dim=1)
    if not bool(squared.isfinite().all()):
        return _euclidean(first, second).square()
    return squared.clamp(min=0).float()


DISTANCES = {"float32": _euclidean, "float16": _squared_in_half}


def _blocks(features: torch.Tensor, others: torch.Tensor) -> Iterator[slice]:
    """Rows of `features` whose distances to all `others` are held at a time."""
    height = max(1, BLOCK // len(others))
    for begin in range(0, len(features), height):
        yield slice(begin, begin + height)
