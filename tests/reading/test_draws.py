"""What readers draw: SplitMix64 by its published numbers, normal numbers by integers and by their moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest

from latentkit.reading.shards import mixed, normal

WORD = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def split_mix(state: int, count: int) -> list[int]:
    """The generator as it is published: a state, one number a step."""
    numbers = []
    for _ in range(count):
        state = (state + GAMMA) & WORD
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        numbers.append(z ^ (z >> 31))
    return numbers


def box_muller(key: int, size: int) -> list[float]:
    """First the cosines, then the sines; radii from the stream's first half, angles from its second."""
    pairs = (size + 1) // 2
    halves = [half for number in split_mix(key, pairs) for half in (number & 0xFFFFFFFF, number >> 32)]
    radii = [math.sqrt(-2 * math.log((half + 0.5) / 2**32)) for half in halves[:pairs]]
    angles = [half * 2 * math.pi / 2**32 for half in halves[pairs:]]
    there = [r * math.cos(a) for r, a in zip(radii, angles, strict=True)]
    return (there + [r * math.sin(a) for r, a in zip(radii, angles, strict=True)])[:size]


def test_it_is_split_mix_64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert split_mix(1234567, 4) == published
    states = [(1234567 + n * GAMMA) & WORD for n in range(4)] + [0, 1, WORD]
    expected = published + [split_mix(state, 1)[0] for state in (0, 1, WORD)]
    assert mixed(np.array(states, np.uint64)).tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_normal_numbers_follow_from_their_key_alone(size: int) -> None:
    keys = [0, 1, 2**63, WORD, 1234567]
    given = normal(np.array(keys, np.uint64), size)
    assert (given.shape, given.dtype) == ((5, size), np.float32)
    for key, numbers in zip(keys, given, strict=True):
        np.testing.assert_allclose(numbers, box_muller(key, size), atol=3e-6)
        scaled = normal(np.array([key], np.uint64), size, 0.18215)[0]
        np.testing.assert_allclose(scaled, 0.18215 * np.array(box_muller(key, size)), atol=6e-7)
        np.testing.assert_array_equal(normal(np.array([key], np.uint64), size)[0], numbers)


@pytest.mark.parametrize("first", [0, 2**64 - 100, 0x9E3779B97F4A7C15])
def test_normal_numbers_are_normal_whatever_the_keys(first: int) -> None:
    """Of neighbouring keys too, which are the worst that there are."""
    keys = mixed(np.array([(first + n) & WORD for n in range(256)], np.uint64))
    numbers = normal(keys, 4096).astype(np.float64)
    count = numbers.size
    assert abs(numbers.mean()) < 5 / count**0.5
    assert abs(numbers.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((numbers**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((numbers**4).mean() - 3) < 5 * (96 / count) ** 0.5
    assert 4.3 < np.abs(numbers).max() < 6.8
    assert kstest(numbers.reshape(-1), "norm").pvalue > 1e-6
    for means in (numbers.mean(0) * 256**0.5, numbers.mean(1) * 4096**0.5):
        assert kstest(means, "norm").pvalue > 1e-6
    for values in (numbers, numbers**2 - 1):
        size = (values**2).mean()
        for row, column in ((0, 1), (1, 0), (0, 2048), (0, 1024), (0, 32), (1, 1)):
            shifted = values[: len(values) - row, : 4096 - column] * values[row:, column:]
            assert abs(shifted.mean()) < 5 * size / shifted.size**0.5, (row, column)
    between = np.corrcoef(numbers)[np.triu_indices(256, 1)] * 4096**0.5
    assert kstest(between, "norm").pvalue > 1e-6
