"""PSNR and SSIM against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipes import photo
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from latentkit.errors import LatentkitError
from latentkit.evaluation.metrics import Reconstruction, reconstruction

SIZES = [(48, 48), (31, 57), (9, 16)]


def pictures(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions, the worse the later, and originals; flat, dark and bright ones among them."""
    originals = np.stack([photo(seed, height, width) for seed in range(9)])
    originals[6], originals[7], originals[8, :, : width // 2] = 0, 255, 200
    noise = np.random.default_rng(0).standard_normal(originals.shape) * np.arange(1, 10)[:, None, None, None]
    noisy = np.clip(np.rint(originals + noise), 0, 255).astype(np.uint8)
    return torch.from_numpy(noisy), torch.from_numpy(originals)


def fed(metric: Reconstruction, noisy: torch.Tensor, originals: torch.Tensor) -> Reconstruction:
    metric.update({"pixels": noisy, "originals": originals}, torch.arange(len(noisy)), "generated")
    return metric


@pytest.mark.parametrize("size", SIZES)
def test_both_agree_with_torchmetrics(size: tuple[int, int]) -> None:
    noisy, originals = pictures(*size)
    metric = fed(Reconstruction(), noisy, originals)
    x, y = (side.permute(0, 3, 1, 2).double() for side in (noisy, originals))
    psnr = peak_signal_noise_ratio(x, y, data_range=255.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none")
    assert metric.latest_psnr is not None
    torch.testing.assert_close(metric.latest_psnr, psnr, rtol=1e-6, atol=0, check_dtype=False)
    found = metric.compute()
    assert found["psnr"] == pytest.approx(psnr.mean().item(), rel=1e-6)
    assert found["psnr_std"] == pytest.approx(psnr.std(correction=0).item(), rel=1e-5)
    assert found["ssim"] == pytest.approx(ssim.mean().item(), abs=1e-5)
    assert found["ssim_std"] == pytest.approx(ssim.std(correction=0).item(), abs=1e-5)


@pytest.mark.parametrize("piece", [1, 600])
def test_batches_and_pieces_of_any_size_in_any_order(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, originals = pictures(16, 16)
    whole = fed(Reconstruction(), noisy, originals).compute()
    monkeypatch.setitem(reconstruction.PIECE, "cpu", piece)
    metric = Reconstruction()
    for places in ([4], [8, 0, 2, 3], [1, 7], [5, 6]):
        fed(metric, noisy[places], originals[places])
        assert metric.latest_psnr is not None
        assert len(metric.latest_psnr) == len(places)
    assert metric.compute() == pytest.approx(whole, rel=1e-6)


def test_one_colour_against_another_is_similar_by_its_brightness_alone() -> None:
    """Without variance SSIM is (2 x y + c1) / (x^2 + y^2 + c1)."""
    c1 = (0.01 * 255) ** 2
    for x, y in ((0, 255), (254, 255), (7, 7), (100, 3)):
        noisy, originals = (torch.full((1, 12, 9, 3), level, dtype=torch.uint8) for level in (x, y))
        found = fed(Reconstruction(), noisy, originals).compute()["ssim"]
        assert found == pytest.approx((2 * x * y + c1) / (x**2 + y**2 + c1), abs=1e-5)


def test_a_picture_without_any_difference_counts_as_one_level_in_one_value() -> None:
    original = torch.from_numpy(photo(0, 16, 16))[None]
    nearly = original.clone()
    nearly[0, 3, 3, 1] ^= 1
    same, almost = (fed(Reconstruction(), picture, original).compute() for picture in (original, nearly))
    assert same["psnr"] == almost["psnr"] == pytest.approx(10 * np.log10(255**2 * 16 * 16 * 3))
    assert same["ssim"] == pytest.approx(1, abs=1e-6)


def test_pictures_of_another_size_and_no_pictures() -> None:
    noisy, originals = pictures(16, 16)
    with pytest.raises(LatentkitError, match=r"differ in size: \[16, 12\] and \[16, 16\]"):
        fed(Reconstruction(), noisy[:, :, :12], originals)
    with pytest.raises(LatentkitError, match="at least 1 generated pictures, there are 0"):
        fed(Reconstruction(), noisy[:0], originals[:0]).compute()
