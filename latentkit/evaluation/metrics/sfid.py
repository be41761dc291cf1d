"""sFID: Fréchet distance of 2023 values of an early, spatial layer (Nash et al., 2021, arXiv:2103.03841)."""

from latentkit.evaluation.metrics.frechet import FrechetDistance


class SpatialFID(FrechetDistance):
    """Reads ``spatial``; statistics `mu_s`, `sigma_s`."""

    name = "sfid"
    taps = ("spatial",)
    statistics = ("mu_s", "sigma_s")
