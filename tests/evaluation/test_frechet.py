"""The Fréchet distance between Gaussians against answers that are known or found another way."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from latentkit.evaluation.metrics.frechet import Gaussian, frechet_distance, trace_of_root


def low_rank(rng: np.random.Generator, size: int, rank: int, scale: float) -> np.ndarray:
    """A factor [size, rank] of a covariance."""
    return rng.standard_normal((size, rank)) * np.sqrt(scale / rank)


@pytest.mark.parametrize("size", [2, 17, 128])
@pytest.mark.parametrize("scales", [(1, 1), (1e-6, 1e6), (1e6, 1e6), (1e-6, 1e-6)])
def test_full_rank_agrees_with_sqrtm_and_eigvals(size: int, scales: tuple[float, float]) -> None:
    rng = np.random.default_rng(size)
    first, second = (
        factor @ factor.T for factor in (low_rank(rng, size, 3 * size, scale) for scale in scales)
    )
    found = trace_of_root(first, second)
    assert found == pytest.approx(np.trace(scipy.linalg.sqrtm(first @ second)).real, rel=1e-9)
    assert found == pytest.approx(np.sqrt(scipy.linalg.eigvals(first @ second)).real.sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("size", "ranks", "scale"),
    [
        (2, (1, 2), 1),
        (17, (1, 1), 1e6),
        (96, (95, 40), 1e-6),
        (96, (96, 40), 1e6),
        (96, (20, 10), 1),
        (256, (99, 256), 1),
    ],
)
def test_at_any_rank_it_is_the_nuclear_norm_of_the_factors_product(
    size: int, ranks: tuple[int, int], scale: float
) -> None:
    rng = np.random.default_rng(size)
    first, second = (low_rank(rng, size, rank, scale) for rank in ranks)
    exact = np.linalg.svd(first.T @ second, compute_uv=False).sum()
    for one, other in ((first, second), (second, first)):
        assert trace_of_root(one @ one.T, other @ other.T) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("rank", [128, 127, 64])
def test_covariances_that_commute_have_a_known_answer_however_wide_their_spectrum(rank: int) -> None:
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    first, second = np.logspace(2, -8, 128), np.logspace(-8, 2, 128)
    first[rank:] = 0
    found = trace_of_root(*(rotation @ np.diag(values) @ rotation.T for values in (first, second)))
    assert found == pytest.approx(np.sqrt(first * second).sum(), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 30, 64])
@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_the_distance_of_a_set_to_itself_is_zero_to_rounding(rank: int, scale: float) -> None:
    factor = low_rank(np.random.default_rng(rank), 64, rank, scale)
    one = Gaussian(np.ones(64), factor @ factor.T)
    assert abs(frechet_distance(one, one)) < 1e-9 * np.trace(one.sigma)


def test_a_set_without_variance_and_features_that_never_fire() -> None:
    factor = low_rank(np.random.default_rng(0), 64, 200, 1.0)
    factor[10:20] = 0
    some = Gaussian(np.zeros(64), factor @ factor.T)
    point = Gaussian(np.full(64, 2.0), np.zeros((64, 64)))
    assert frechet_distance(some, point) == pytest.approx(64 * 4 + np.trace(some.sigma))
    assert frechet_distance(point, some) == frechet_distance(some, point)
    assert frechet_distance(point, point) == 0
    assert frechet_distance(some, some) == pytest.approx(0, abs=1e-9)
