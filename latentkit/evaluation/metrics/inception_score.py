"""Inception Score (Salimans et al., 2016, arXiv:1606.03498)."""

import math
from itertools import pairwise

import numpy as np
import torch

from latentkit.errors import UsageError
from latentkit.evaluation.metrics.feature_bank import LOGITS, FeatureBank

PUBLISHED = (10, None, 2020), (None, 5000, None)
"""Splits, split size and shuffle seed of torch-fidelity, and of ADM's evaluator."""


class InceptionScore(FeatureBank):
    """exp of the mean KL(p(y|x) || p(y)) in each part of the set: the parts' mean and population deviation.

    The logits are kept: 200 MB for 50,000 pictures of 1008 classes.

    Args:
        splits: parts of N // splits pictures, or one more (torch-fidelity: 10).
        split_size: in place of `splits`, pictures a part, of which the last may have fewer (ADM: 5000).
        shuffle_seed: of the permutation of the pictures, which stand in the order of their keys, before they
            are divided (torch-fidelity: 2020); None leaves the order.
        features: a classifier's logits; Inception's are without the bias.
    """

    name = "inception_score"
    compares = False
    min_samples_option = "splits"

    def __init__(
        self,
        splits: int | None = 10,
        split_size: int | None = None,
        shuffle_seed: int | None = 2020,
        features: str = LOGITS,
    ) -> None:
        super().__init__(features)
        if (splits is None) == (split_size is None):
            raise UsageError("inception_score: give either splits or split_size")
        if (splits or split_size or 0) < 1:
            raise UsageError("inception_score: splits and split_size are at least 1")
        self.splits, self.split_size, self.shuffle_seed = splits, split_size, shuffle_seed

    def nonstandard_reason(self) -> str | None:
        """Anything but torch-fidelity's or ADM's way to divide."""
        settings = self.splits, self.split_size, self.shuffle_seed
        if settings in PUBLISHED:
            return self._other_features(LOGITS)
        return f"splits={self.splits}, split_size={self.split_size}, shuffle_seed={self.shuffle_seed}"

    def min_samples(self) -> int:
        """A picture a part."""
        return self.splits or 1

    def compute(self) -> dict[str, float]:
        """``inception_score`` and ``inception_score_std``, over the parts."""
        logits = self.kept("generated")
        order = np.arange(len(logits))
        if self.shuffle_seed is not None:
            order = np.random.RandomState(self.shuffle_seed).permutation(len(logits))
        places = torch.from_numpy(order).to(logits.device)
        parts = pairwise(self._bounds(len(logits)))
        scores = [_score(logits[places[begin:end]]) for begin, end in parts]
        return {self.name: float(np.mean(scores)), f"{self.name}_std": float(np.std(scores))}

    def _bounds(self, count: int) -> list[int]:
        if self.splits:
            return [part * count // self.splits for part in range(self.splits + 1)]
        return [*range(0, count, self.split_size or 1), count]


def _score(logits: torch.Tensor) -> float:
    log_p = logits.double().log_softmax(dim=1)
    log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))  # finite, also where every p is 0 in float64
    divergence = (log_p.exp() * (log_p - log_mean)).sum(dim=1)
    return divergence.mean().exp().item()
