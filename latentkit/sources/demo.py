"""A collection that needs no data: images painted when they are read, stored in every supported way."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from latentkit.errors import UsageError
from latentkit.sources.source import Item, Source, SourceError, Stat

_SIZES = ((640, 640), (512, 748), (748, 512), (450, 750), (750, 450), (352, 672), (900, 471))
"""Width and height, one size for each default aspect bucket; each image's is scaled by 0.86 to 1."""

_PALETTES = {
    "sunset": ("indigo", "gold", "crimson"),
    "lagoon": ("midnightblue", "palegreen", "teal"),
    "meadow": ("darkgreen", "khaki", "limegreen"),
    "berry": ("purple", "pink", "deeppink"),
    "copper": ("maroon", "wheat", "chocolate"),
    "aurora": ("navy", "aquamarine", "mediumorchid"),
    "candy": ("hotpink", "lemonchiffon", "skyblue"),
}
"""Name -> the colours of the lowest, the highest and the middle level."""

_LONG_CAPTION_AT = 3
_REMARKS = (
    "It was painted by a recipe from a few numbers, and not taken with a camera, so it can be made again "
    "anywhere, and this sentence about it goes on for much longer than is useful, so that a text encoder "
    "with room for seventy-seven tokens has to cut it, and the run can show that it counts what was cut, "
    "which is all that there is to say of it."
)


@dataclass(kw_only=True, eq=False)
class DemoSource(Source):
    """Images of 300 to 900 pixels, of eight kinds, in every aspect bucket, format and mode that decodes.

    Nothing lies on disk. The images and their captions follow from ``seed`` and the index alone; their
    encoded bytes also depend on the version of Pillow. The kinds are the classes.

    Attributes:
        pictures: how many, at least 1.
        seed: of the recipes.

    Raises:
        UsageError: ``pictures`` is less than 1, or ``seed`` less than 0.
    """

    orient = True
    strict = True

    pictures: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise UsageError(f"dataset.pictures={self.pictures}: must be at least 1")
        if self.seed < 0:
            raise UsageError(f"dataset.seed={self.seed}: must be at least 0")
        self.classes = tuple(sorted(_FIELDS))
        self.ignored = 0

    def __len__(self) -> int:
        return self.pictures

    def _kind(self, index: int) -> str:
        if not 0 <= index < self.pictures:
            raise IndexError(f"item {index} of {self.pictures}")
        return list(_FIELDS)[index % len(_FIELDS)]

    def __getitem__(self, index: int) -> Item:
        kind = self._kind(index)
        key = f"demo_{index:02d}_{kind}"
        caption = f"{_FIELDS[kind][0]} in {_palette(index)} colours, {_ENCODINGS[index % len(_ENCODINGS)][0]}"
        if index == _LONG_CAPTION_AT:
            caption = f"{caption}. {_REMARKS}"
        return Item(key, f"demo:{key}", caption, self.classes.index(kind))

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        _, field = _FIELDS[self._kind(index)]
        rng = np.random.default_rng([self.seed, index])
        shrink = rng.uniform(0.86, 1)
        width, height = (round(side * shrink) for side in _SIZES[index % len(_SIZES)])
        y, x = np.mgrid[:height, :width] / min(width, height) - 0.5
        values = field(rng, x, y)
        levels = (255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)
        image = ImageOps.colorize(Image.fromarray(levels), *_PALETTES[_palette(index)])
        try:
            return _ENCODINGS[index % len(_ENCODINGS)][1](image), None
        except OSError as error:  # a Pillow that was built without one of the formats
            raise SourceError(f"{self[index].location}: {error}") from None

    def stat(self, index: int) -> None:
        return None


def _palette(index: int) -> str:
    return list(_PALETTES)[(index + index // len(_PALETTES)) % len(_PALETTES)]


def _discs(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    field = 0.2 * y
    for level in rng.permutation(np.linspace(0.3, 1, 8)):
        distance = np.hypot(x - rng.uniform(x.min(), x.max()), y - rng.uniform(y.min(), y.max()))
        field = np.where(distance < rng.uniform(0.07, 0.26), level - distance, field)
    return field


def _clouds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    noise = (Image.fromarray(rng.normal(0, 1 / n, (n, n)).astype(np.float32)) for n in (3, 6, 12, 24, 48))
    octaves = (octave.resize(x.shape[::-1], Image.Resampling.BICUBIC) for octave in noise)
    return np.sum([np.asarray(octave) for octave in octaves], axis=0)


def _waves(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    return np.sum([np.sin(fx * x + fy * y) for fx, fy in rng.uniform(-9, 9, (3, 2))], axis=0)


def _spiral(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    return np.sin(rng.integers(2, 6) * np.arctan2(y, x) + rng.uniform(8, 16) * np.hypot(x, y))


def _gradient(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    angle = rng.uniform(0, 2 * np.pi)
    return np.cos(angle) * x + np.sin(angle) * y


def _rings(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    return np.sin(rng.uniform(25, 50) * np.hypot(x - rng.uniform(-0.2, 0.2), y - rng.uniform(-0.2, 0.2)))


def _stripes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    return np.floor(rng.uniform(5, 9) * _gradient(rng, x, y))


def _checker(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Any:
    count = rng.integers(5, 9)
    return (np.floor(count * x) + np.floor(count * y)) % 2 + np.hypot(x, y)


_FIELDS: dict[str, tuple[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], Any]]] = {
    "discs": ("Discs", _discs),
    "clouds": ("Clouds", _clouds),
    "waves": ("Three crossing waves", _waves),
    "spiral": ("A spiral", _spiral),
    "gradient": ("A smooth gradient", _gradient),
    "rings": ("Rings in water", _rings),
    "stripes": ("Slanted stripes", _stripes),
    "checker": ("A checkerboard", _checker),
}
"""Kind -> what the caption says of it, and its levels, in any range, for x and y from the centre."""


def _saved(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


_jpeg = partial(_saved, format_="JPEG", quality=90)
_png = partial(_saved, format_="PNG", compress_level=1)


def _oriented(image: Image.Image, stored: Image.Transpose, orientation: int) -> bytes:
    """Stored turned or mirrored, with the EXIF orientation that undoes it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return _jpeg(image.transpose(stored), exif=exif)


def _cut_out(image: Image.Image) -> bytes:
    """64 colours, the one in the corner transparent."""
    few = image.quantize(64, method=Image.Quantize.FASTOCTREE)
    return _png(few, transparency=few.getpixel((0, 0)))


def _grey16(image: Image.Image) -> bytes:
    levels = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return _png(Image.fromarray(levels))


def _animation(image: Image.Image) -> bytes:
    few = image.quantize(64, method=Image.Quantize.FASTOCTREE)
    return _saved(few, "GIF", save_all=True, append_images=[few.transpose(Image.Transpose.ROTATE_180)])


_ENCODINGS: tuple[tuple[str, Callable[[Image.Image], bytes]], ...] = (
    ("as JPEG", _jpeg),
    ("as progressive JPEG", partial(_jpeg, progressive=True)),
    ("as WebP", partial(_saved, format_="WEBP", quality=85, method=0)),
    ("as JPEG", _jpeg),
    ("as PNG", _png),
    ("taken upright", partial(_oriented, stored=Image.Transpose.ROTATE_90, orientation=6)),
    ("with one colour cut out", _cut_out),
    ("as JPEG", _jpeg),
    ("in ink (CMYK)", lambda image: _jpeg(image.convert("CMYK"))),
    ("faded to grey", lambda image: _jpeg(image.convert("L"))),
    ("mirrored back", partial(_oriented, stored=Image.Transpose.FLIP_LEFT_RIGHT, orientation=2)),
    ("moving, as GIF", _animation),
    ("in deep grey", _grey16),
)
"""(What the caption says of it, how an image is stored): thirteen in turn, prime to the numbers of kinds,
sizes and palettes, so that all meet all."""
