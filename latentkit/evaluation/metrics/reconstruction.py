"""How near reconstructions are to their originals: PSNR and SSIM."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from latentkit.errors import LatentkitError
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side

PIECE = {"cpu": 1 << 17, "cuda": 1 << 20}
"""Pixels whose SSIM is computed at a time: on a CPU so few that the maps made of them stay in its caches."""


class Reconstruction(EvaluationMetric):
    """PSNR in dB and SSIM of uint8 pictures against their originals: the pictures' mean and deviation.

    PSNR is 10 log10(255^2 / mse) over a picture's values. That of a picture without any difference would be
    infinite, and with it the mean: it counts as if one value differed by one level (101.1 dB at 256x256).
    Sums alone are kept.
    """

    name = "reconstruction"
    features = (PIXELS, ORIGINALS)
    compares = False

    count: Tensor
    psnr: Tensor
    ssim: Tensor
    """float64 [2], as `psnr`: the sums of the pictures' values and of their squares."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        for state in ("psnr", "ssim"):
            self.add_state(state, torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def nonstandard_reason(self) -> str | None:
        """Nothing: there are no settings."""
        return None

    def update(self, features: Mapping[str, Tensor], positions: Tensor, side: Side) -> None:
        """Add a batch of uint8 [B, H, W, 3]; `latest_psnr` then is of this batch, float64 [B]."""
        pictures, originals = features[PIXELS], features[ORIGINALS]
        if pictures.shape != originals.shape:
            sizes = f"{list(pictures.shape[1:3])} and {list(originals.shape[1:3])}"
            raise LatentkitError(f"{self.name}: pictures and originals differ in size: {sizes}")
        self.latest_psnr = psnr(pictures, originals)
        self.count += len(pictures)
        self.psnr += _sums(self.latest_psnr)
        some = max(1, PIECE[pictures.device.type] // pictures.shape[1:3].numel())
        for pair in zip(torch.split(pictures, some), torch.split(originals, some), strict=True):
            self.ssim += _sums(ssim(*pair).double())

    def compute(self) -> dict[str, float]:
        """``psnr`` in dB and ``ssim``, each with its population deviation, ``psnr_std`` and ``ssim_std``."""
        count = int(self.count)
        self.require(count, "generated")
        found: dict[str, float] = {}
        for name in ("psnr", "ssim"):
            mean, squares = (getattr(self, name) / count).tolist()
            found |= {name: mean, f"{name}_std": max(0.0, squares - mean**2) ** 0.5}
        return found


def _sums(values: Tensor) -> Tensor:
    return torch.stack([values.sum(), values.square().sum()])


def psnr(pictures: Tensor, originals: Tensor) -> Tensor:
    """dB, float64 [B], of uint8 [B, H, W, C]; no difference counts as one level in one value."""
    squared = (pictures.int() - originals.int()).square().flatten(1).sum(dim=1)
    mse = squared.clamp(min=1).double() / pictures.shape[1:].numel()
    return 10 * torch.log10(255**2 / mse)


def ssim(pictures: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004), float32 [B], of uint8 [B, H, W, C] of at least 6x6.

    Gaussian window of 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 255, each channel by itself, edges
    mirrored, the mean over all pixels and channels: torchmetrics' definition.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = (side.permute(0, 3, 1, 2).float() - 128 for side in (pictures, originals))
    d = x - y
    mean_x, mean_d, squares, d_squares = _blurred(torch.cat([x, d, x * x + y * y, d * d])).chunk(4)
    mean_y = mean_x - mean_d
    variances = (squares - mean_x.square() - mean_y.square()).clamp(min=0)
    energy = (mean_x + 128).square() + (mean_y + 128).square()
    # By 2xy = x^2 + y^2 - d^2, the factors are 1 less what the difference takes: float32 does for small ones.
    luminance = 1 - mean_d.square() / (energy + c1)
    structure = 1 - (d_squares - mean_d.square()) / (variances + c2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _blurred(maps: Tensor) -> Tensor:
    """By the Gaussian window, rows and columns in turn. Sums, for a GPU's convolutions may round to TF32."""
    window = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    padded = F.pad(maps, (5, 5, 5, 5), mode="reflect")
    for dim in (2, 3):
        size = padded.shape[dim] - 10
        first, *others = window.tolist()
        blurred = padded.narrow(dim, 0, size) * first
        for offset, weight in enumerate(others, 1):
            blurred.add_(padded.narrow(dim, offset, size), alpha=weight)
        padded = blurred
    return padded
