"""Fréchet distance between Gaussians fitted to features: FID (Heusel et al., 2017, arXiv:1706.08500) on
Inception's pooled features, sFID (Nash et al., 2021, arXiv:2103.03841) on those of an early, spatial layer,
and FD on any encoder's (Stein et al., 2023, arXiv:2306.04675).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf

from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.metrics.metric import EvaluationMetric, Side


class Gaussian(NamedTuple):
    """A Gaussian: mu float64 [d], sigma float64 [d, d]."""

    mu: np.ndarray
    sigma: np.ndarray


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|mu1 - mu2|^2 + tr(sigma1) + tr(sigma2) - 2 tr((sigma1 sigma2)^(1/2)); below zero by rounding alone."""
    difference = first.mu - second.mu
    traces = np.trace(first.sigma) + np.trace(second.sigma)
    return float(difference @ difference + traces - 2 * trace_of_root(first.sigma, second.sigma))


def trace_of_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr((S1 S2)^(1/2)) of covariances S1 and S2, float64 [d, d], of any rank.

    With S1 = A A^T and S2 = B B^T, the eigenvalues of S1 S2 that are not zero are those of C C^T, where
    C = A^T B, and of C^T C: the smaller of the two is decomposed, which is symmetric.
    """
    cross = _factor(first).T @ _factor(second)
    if cross.shape[0] > cross.shape[1]:
        cross = cross.T
    return float(np.sqrt(np.linalg.eigvalsh(cross @ cross.T).clip(min=0)).sum())


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A [d, rank] with A A^T = covariance: Cholesky's, with pivots, which ends where rounding begins."""
    lower, pivots, rank, _ = dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor


class FrechetDistance(EvaluationMetric):
    """Fréchet distance between the features of both sides; covariances with N - 1.

    Of each side a process holds [d + 1, d + 1] float64, the sum of [1 x]^T [1 x] over its pictures x: their
    count, the sums of their features and of the outer products. Nothing is kept per picture.

    Args:
        name: of the metric and its value.
        features: an encoder's output, as ``inception.pool3``.
        statistics: what mu and sigma are called in files of reference statistics.
        nonstandard_reason: why its values stand beside no published ones; None where they do.
    """

    compares = True
    generated: torch.Tensor
    reference: torch.Tensor

    def __init__(
        self, name: str, features: str, statistics: Sequence[str], nonstandard_reason: str | None = None
    ) -> None:
        super().__init__()
        if len(statistics) != 2:
            raise UsageError(f"{name}: statistics={list(statistics)}: give two names, of mu and sigma")
        self.name, self.features, self.statistics = name, (features,), tuple(statistics)
        self._nonstandard_reason = nonstandard_reason
        for state in ("generated", "reference"):
            self.add_state(state, torch.zeros(0, 0, dtype=torch.float64), dist_reduce_fx="sum")

    def nonstandard_reason(self) -> str | None:
        """As it was told."""
        return self._nonstandard_reason

    def update(self, features: Mapping[str, torch.Tensor], positions: torch.Tensor, side: Side) -> None:
        """Add a batch of [B, d]; `EvaluationMetric.update`."""
        found = self._vectors(features, positions).double()
        self._allocate(found.shape[1])
        rows = torch.cat([found.new_ones(len(found), 1), found], dim=1)
        getattr(self, side).addmm_(rows.T, rows)

    def compute(self) -> dict[str, float]:
        """The distance, under the metric's name."""
        return {self.name: frechet_distance(self._fitted("generated"), self._fitted("reference"))}

    def reference_statistics(self) -> dict[str, np.ndarray]:
        """mu [d], sigma [d, d] under this metric's names."""
        return dict(zip(self.statistics, self._fitted("reference"), strict=True))

    def load_reference(self, statistics: Mapping[str, np.ndarray]) -> bool:
        """Take mu and sigma, which must fit each other."""
        if not super().load_reference(statistics):
            return False
        mu, sigma = (statistics[name] for name in self.statistics)
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise LatentkitError(
                f"{self.name}: the reference's {' and '.join(self.statistics)} have the shapes "
                f"{list(mu.shape)} and {list(sigma.shape)}"
            )
        self._allocate(len(mu))
        return True

    def _fitted(self, side: Side) -> Gaussian:
        """Of one side, on the host, where equal sums give equal distances whatever the device."""
        if side == "reference" and self.loaded is not None:
            return Gaussian(*(np.asarray(self.loaded[name], np.float64) for name in self.statistics))
        sums = getattr(self, side).cpu().numpy()
        count = float(sums[0, 0]) if sums.size else 0.0
        self.require(int(count), side)
        mu = sums[0, 1:] / count
        return Gaussian(mu, (sums[1:, 1:] - count * np.outer(mu, mu)) / (count - 1))

    def _allocate(self, width: int) -> None:
        for name in ("generated", "reference"):
            state = getattr(self, name)
            if not state.numel():
                setattr(self, name, state.new_zeros(width + 1, width + 1))
            elif len(state) != width + 1:
                raise LatentkitError(
                    f"{self.name}: {width} features a picture here, {len(state) - 1} there: "
                    "the two sides are of different networks"
                )
