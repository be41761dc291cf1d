"""Colourful pictures by recipe, so that a first run needs no data: each a field in [0, 1], then a palette."""

from collections.abc import Callable

import numpy as np
from PIL import Image

Field = Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, str]]

PALETTES = {
    "sunset": ((0.55, 0.36, 0.42), (0.45, 0.36, 0.36), (0.00, 0.12, 0.30)),
    "lagoon": ((0.30, 0.52, 0.58), (0.30, 0.38, 0.36), (0.55, 0.30, 0.18)),
    "meadow": ((0.48, 0.58, 0.32), (0.40, 0.34, 0.30), (0.10, 0.90, 0.55)),
    "berry": ((0.55, 0.30, 0.50), (0.42, 0.28, 0.38), (0.95, 0.40, 0.70)),
    "copper": ((0.58, 0.44, 0.34), (0.38, 0.34, 0.30), (0.02, 0.10, 0.16)),
    "aurora": ((0.36, 0.52, 0.52), (0.34, 0.44, 0.40), (0.80, 0.05, 0.35)),
    "candy": ((0.70, 0.56, 0.62), (0.30, 0.36, 0.34), (0.00, 0.33, 0.60)),
}
"""Name -> (a, b, d) of the cosine palette a + b cos(2 pi (t + d)) of Inigo Quilez, for red, green, blue."""


def paint(
    kind: str, palette: str, rng: np.random.Generator, width: int, height: int
) -> tuple[Image.Image, str]:
    """Paint a picture.

    Args:
        kind: one of `KINDS`.
        palette: one of `PALETTES`.
        rng: decides all that the recipe leaves open; equal states give equal pictures.
        width, height: in pixels.

    Returns:
        The picture (mode RGB), and what it shows in a few words.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    side = min(width, height)
    field, words = KINDS[kind](rng, (x - width / 2) / side, (y - height / 2) / side)
    levels = np.clip(field * 255, 0, 255).astype(np.uint8)
    middle, swing, phase = (np.array(row) for row in PALETTES[palette])
    ramp = middle + swing * np.cos(2 * np.pi * (np.linspace(0, 0.85, 256)[:, None] + phase))
    return Image.fromarray(np.rint(255 * np.clip(ramp, 0, 1)).astype(np.uint8)[levels]), words


def _gradient(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    return (along - along.min()) / np.ptp(along), "a smooth gradient"


def _discs(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    count = int(rng.integers(5, 10))
    field = 0.15 + 0.15 * (y - y.min()) / np.ptp(y)
    for level in rng.permutation(np.linspace(0.35, 1, count)):
        radius = rng.uniform(0.07, 0.26)
        distance = (x - rng.uniform(x.min(), x.max())) ** 2 + (y - rng.uniform(y.min(), y.max())) ** 2
        field = np.where(distance < radius**2, level - 0.6 * distance, field)
    return field, f"{count} discs"


def _stripes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    count, angle = int(rng.integers(5, 11)), rng.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    return np.floor((along - along.min()) / np.ptp(along) * count) / count, f"{count} slanted stripes"


def _checker(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    count = int(rng.integers(5, 9))
    squares = (np.floor(x * count) + np.floor(y * count)) % 2
    return 0.2 + 0.5 * squares + 0.3 * np.hypot(x, y) / 1.4, "a checkerboard"


def _waves(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    total = np.zeros_like(x)
    for _ in range(3):
        fx, fy, phase = rng.uniform(-9, 9), rng.uniform(-9, 9), rng.uniform(0, 6.28)
        total += np.sin(fx * x + fy * y + phase)
    return 0.5 + total / 6, "three crossing waves"


def _rings(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    count = int(rng.integers(4, 9))
    distance = np.hypot(x - rng.uniform(-0.2, 0.2), y - rng.uniform(-0.2, 0.2))
    return 0.5 + 0.5 * np.sin(distance * 2 * np.pi * count), "rings in water"


def _clouds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    height, width = x.shape
    total = np.zeros_like(x)
    for octave in range(5):
        cells = 3 * 2**octave
        grid = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return (total - total.min()) / np.ptp(total), "clouds"


def _spiral(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    arms, twist = int(rng.integers(2, 6)), rng.uniform(8, 16)
    return 0.5 + 0.5 * np.sin(arms * np.arctan2(y, x) + twist * np.hypot(x, y)), f"a spiral of {arms} arms"


KINDS: dict[str, Field] = {
    "checker": _checker,
    "clouds": _clouds,
    "discs": _discs,
    "gradient": _gradient,
    "rings": _rings,
    "spiral": _spiral,
    "stripes": _stripes,
    "waves": _waves,
}
"""Name of a kind -> its field, from x and y centred and in units of the shorter side; sorted by name."""
