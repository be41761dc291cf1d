"""FID: Fréchet distance of Inception's 2048 pooled features (Heusel et al., 2017, arXiv:1706.08500)."""

from latentkit.evaluation.metrics.frechet import FrechetDistance


class FID(FrechetDistance):
    """Reads ``pool3``; statistics `mu`, `sigma`."""

    name = "fid"
    taps = ("pool3",)
    statistics = ("mu", "sigma")
