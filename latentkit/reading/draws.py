"""What a reader draws at random: numbers that follow from keys, in any order, batch and process."""

from __future__ import annotations

import math

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """The first number of the SplitMix64 stream (Steele, Lea and Flood, 2014) that begins at each value.

    uint64 to uint64, one to one, as if at random; the n-th after it is ``mixed(values + n * gamma)``.
    """
    values = values + _GAMMA
    shifted = values >> np.uint64(30)
    values ^= shifted
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= np.right_shift(values, np.uint64(27), out=shifted)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= np.right_shift(values, np.uint64(31), out=shifted)
    return values


def standard_normal(keys: np.ndarray, size: int) -> np.ndarray:
    """Normal numbers of mean 0 and variance 1 by Box and Muller's transform; none is beyond 6.8.

    Args:
        keys: uint64 [B], each the start of a SplitMix64 stream of its own.
        size: numbers a key.

    Returns:
        float32 [B, size].
    """
    pairs = -(-size // 2)
    bits = mixed(keys[:, None] + np.arange(pairs, dtype=np.uint64) * _GAMMA).view(np.uint32)
    radius = bits[:, :pairs].astype(np.float32)
    radius += 0.5
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle = bits[:, pairs:].view(np.int32).astype(np.float32)
    angle *= math.pi / 2**31
    normal = np.empty((len(keys), 2 * pairs), np.float32)
    np.multiply(np.cos(angle, out=normal[:, :pairs]), radius, out=normal[:, :pairs])
    np.multiply(np.sin(angle, out=normal[:, pairs:]), radius, out=normal[:, pairs:])
    return normal[:, :size]
