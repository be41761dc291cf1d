"""A collection that needs no data: pictures painted when they are read, stored in every supported way."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import ExifTags, Image

from latentkit.errors import UsageError
from latentkit.sources.painting import KINDS, PALETTES, paint
from latentkit.sources.source import Item, Source, SourceError, Stat

_SIZES = ((640, 640), (512, 748), (748, 512), (450, 750), (750, 450), (352, 672), (900, 471))
"""Width and height, one size for each default aspect bucket; each picture's is scaled by 0.86 to 1."""

_KIND_ORDER = ("discs", "clouds", "waves", "spiral", "gradient", "rings", "stripes", "checker")

_LONG_CAPTION_AT = 3
_REMARKS = (
    "It was painted by a recipe from a few numbers, and not taken with a camera, so it can be made again "
    "anywhere, and this sentence about it goes on for much longer than is useful, so that a text encoder "
    "with room for seventy-seven tokens has to cut it, and the run can show that it counts what was cut, "
    "which is all that there is to say of it."
)


@dataclass(kw_only=True, eq=False)
class DemoSource(Source):
    """Pictures of 300 to 900 pixels, of eight kinds, in every aspect bucket, format and mode that decodes.

    Nothing lies on disk. The pictures and their captions follow from ``seed`` and the index alone; their
    encoded bytes, beside these, from the version of Pillow. The kinds are the classes.

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
        self.classes = tuple(KINDS)
        self.ignored = 0

    def __len__(self) -> int:
        return self.pictures

    def _kind(self, index: int) -> str:
        if not 0 <= index < self.pictures:
            raise IndexError(f"item {index} of {self.pictures}")
        return _KIND_ORDER[index % len(_KIND_ORDER)]

    def _paint(self, index: int, scale: float) -> tuple[Image.Image, str]:
        """The picture and its caption; at a small ``scale`` for the caption alone."""
        rng = np.random.default_rng([self.seed, index])
        palette = list(PALETTES)[(index + index // len(PALETTES)) % len(PALETTES)]
        shrink = rng.uniform(0.86, 1) * scale
        width, height = (round(side * shrink) for side in _SIZES[index % len(_SIZES)])
        image, words = paint(self._kind(index), palette, rng, width, height)
        caption = f"{words} in {palette} colours, {_ENCODINGS[index % len(_ENCODINGS)][0]}"
        caption = caption[0].upper() + caption[1:]
        return image, f"{caption}. {_REMARKS}" if index == _LONG_CAPTION_AT else caption

    def __getitem__(self, index: int) -> Item:
        kind = self._kind(index)
        key = f"demo_{index:02d}_{kind}"
        _, caption = self._paint(index, scale=0.02)
        return Item(key, f"demo:{key}", caption, self.classes.index(kind))

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        image, _ = self._paint(index, scale=1)
        try:
            return _ENCODINGS[index % len(_ENCODINGS)][1](image), None
        except OSError as error:  # a Pillow that was built without one of the formats
            raise SourceError(f"{self[index].location}: {error}") from None

    def stat(self, index: int) -> None:
        return None


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
"""(What the caption says of it, how a picture is stored): thirteen in turn, prime to the numbers of kinds,
sizes and palettes, so that all meet all."""
