"""What a reader draws at random: numbers that follow from keys, in any order, batch and process."""

import math

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """The first number of the SplitMix64 stream (Steele, Lea and Flood, 2014) that begins at each value.

    uint64 to uint64, one to one, as if at random; the n-th after it is ``mixed(values + n * gamma)``.
    """
    return _finished(values + _GAMMA)


def _finished(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, in place."""
    shifted = values >> np.uint64(30)
    values ^= shifted
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= np.right_shift(values, np.uint64(27), out=shifted)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= np.right_shift(values, np.uint64(31), out=shifted)
    return values


def normal(keys: np.ndarray, size: int, deviation: float = 1.0) -> np.ndarray:
    """Normal numbers of mean 0 by Box and Muller's transform; none is beyond 6.8 deviations.

    Args:
        keys: uint64 [B], each the start of a SplitMix64 stream of its own.
        size: numbers a key.
        deviation: the square root of their variance.

    Returns:
        float32 [B, size].
    """
    pairs = -(-size // 2)
    steps = np.arange(1, pairs + 1, dtype=np.uint64) * _GAMMA
    bits = _finished(keys[:, None] + steps).view(np.uint32)
    radius = bits[:, :pairs].astype(np.float32)
    radius += 0.5
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2 * deviation**2
    np.sqrt(radius, out=radius)
    angle = bits[:, pairs:].view(np.int32).astype(np.float32)
    angle *= math.pi / 2**31
    numbers = np.empty((len(keys), 2 * pairs), np.float32)
    np.multiply(np.cos(angle), radius, out=numbers[:, :pairs])
    np.multiply(np.sin(angle, out=angle), radius, out=numbers[:, pairs:])
    return numbers[:, :size]
