"""Fréchet distance of DINOv3's CLS features, after FD-DINOv2 (Stein et al., 2023, arXiv:2306.04675)."""

from latentkit.evaluation.metrics.frechet import FrechetDistance


class DINOv3FrechetDistance(FrechetDistance):
    """Reads ``dinov3``; statistics `mu_dinov3`, `sigma_dinov3`."""

    name = "fd_dinov3"
    taps = ("dinov3",)
    statistics = ("mu_dinov3", "sigma_dinov3")

    def nonstandard_reason(self) -> str | None:
        """Any value: papers have FD on DINOv2."""
        return "nobody has published numbers on DINOv3"
