"""Inputs that a recipe makes, so that golden values need no stored pictures."""

from __future__ import annotations

import numpy as np

from latentkit.pixels import Pillow

UPRIGHT, AS_STORED = Pillow(orient=True, strict=True), Pillow(orient=False, strict=False)
"""How photos and folders are decoded, and how ImageNet is."""


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth 1/f colour field: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    channels = [
        np.fft.ifft2(amplitude * np.exp(2j * np.pi * rng.random((height, width)))).real for _ in range(3)
    ]
    field = np.stack(channels, axis=-1)
    field = (field - field.mean()) / field.std()
    return np.clip(np.rint(128 + 50 * field), 0, 255).astype(np.uint8)


def features(seed: int, count: int, width: int, shift: float) -> np.ndarray:
    """Rectified mixtures of Gaussians, as a network's pooled features are: float32 [count, width]."""
    mix = np.random.default_rng(99).standard_normal((width, width)).astype(np.float32)
    mix /= np.float32(width**0.5)
    drawn = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return np.maximum(drawn @ mix + np.float32(shift), 0)
