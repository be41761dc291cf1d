"""How a picture is brought to the size that an encoder is defined on. Pure functions of the pixels.

A geometry takes RGB pixels, uint8 [H, W, 3], and returns an array [height, width, 3], C-contiguous and
writable, in 0..255. Its fields decide every value, so that equal geometries give equal arrays; it is
hashable, and pictures that several encoders want in the same geometry are prepared once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from latentkit.errors import UsageError
from latentkit.pixels.decode import MAX_PIXELS
from latentkit.pixels.header import DecodeError

if TYPE_CHECKING:
    import torch

ASPECT_BUCKETS = ("1024x1024", "832x1216", "1216x832", "768x1280", "1280x768", "704x1344", "1344x704")
"""Width x height, about one megapixel each: the sizes that 1024-pixel diffusion models are trained on."""

USUAL_RATIOS = (0.4, 2.5)
"""Width / height outside of these is far from every default bucket: most of the picture is cropped away."""


class Geometry(ABC):
    """A picture to an array.

    Attributes:
        dtype: of the array: ``uint8``, or ``float32`` (still 0..255, unrounded).
        on_tensors: whether `prepare` is there.
    """

    dtype: ClassVar[str] = "uint8"
    on_tensors: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The array of a picture, uint8 [H, W, 3].

        Raises:
            DecodeError: the picture's size is of no use to this geometry.
        """

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """The arrays of pictures that are on the device already: uint8 [B, H, W, 3] -> [B, height, width, 3].

        Raises:
            UsageError: this geometry is defined by Pillow, on the host.
        """
        raise UsageError(
            f"{type(self).__name__} works on the host alone: an extractor needs another geometry"
        )

    @abstractmethod
    def shape(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the array for a picture of this size, without making it."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values for an encoding contract: all that changes the array's values."""

    @abstractmethod
    def largest(self) -> tuple[int, int] | None:
        """(height, width) of the largest array there can be; None when it follows the picture."""

    def facts(self, width: int, height: int) -> dict[str, Any]:
        """What a picture's record says of how this geometry treats it."""
        return {}

    def notes(self, width: int, height: int) -> tuple[str, ...]:
        """What is to be counted of a picture of this size, in a word or two each."""
        return ()


@dataclass(frozen=True)
class _Square(Geometry):
    """To a square.

    Attributes:
        size: side of the square in pixels.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"{type(self).__name__}: size={self.size} must be at least 1 pixel")

    def shape(self, width: int, height: int) -> tuple[int, int]:
        return self.size, self.size

    def largest(self) -> tuple[int, int]:
        return self.size, self.size


@dataclass(frozen=True, kw_only=True)
class AdmCrop(_Square):
    """ADM's crop: halve by BOX while twice too large, BICUBIC to the shorter side, crop the centre. uint8.

    ``center_crop_arr`` of guided-diffusion (Dhariwal and Nichol, 2021), ``image_datasets.py``, to which the
    published ImageNet results of ADM, DiT, SiT and EDM2 refer.
    """

    size: int = 256

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        while min(image.size) >= 2 * self.size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = self.size / min(image.size)
        width, height = round(image.width * scale), round(image.height * scale)
        scaled = _resize(image, width, height, Image.Resampling.BICUBIC)
        return _centre(scaled, self.size, self.size)

    def describe(self) -> dict[str, Any]:
        return _described(self.size, "shorter side", "adm", "box halving, then bicubic (Pillow)")


@dataclass(frozen=True, kw_only=True)
class ResizeSquare(_Square):
    """To a square without regard to the aspect ratio, BICUBIC with antialiasing (Pillow). uint8."""

    size: int = 256

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def describe(self) -> dict[str, Any]:
        return _described(self.size, "squash", "none", "bicubic (Pillow)")


@dataclass(frozen=True, kw_only=True)
class AntialiasedResize(_Square):
    """To a square without regard to the aspect ratio, antialiased bilinear in floats. float32, unrounded.

    The resize of ``DINOv3ViTImageProcessor`` (transformers), which rescales to floats first and so never
    rounds between resize and normalisation. Pillow's 32-bit float mode computes it to 0.002 of a level
    (2.4e-5 after ImageNet's normalisation), on the host and faster than torch's antialiased interpolate.
    """

    dtype: ClassVar[str] = "float32"
    on_tensors: ClassVar[bool] = True
    size: int = 224

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        square, split = (self.size, self.size), Image.fromarray(pixels).split()
        planes = (plane.convert("F").resize(square, Image.Resampling.BILINEAR) for plane in split)
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import interpolate

        planes = pixels.permute(0, 3, 1, 2).float()
        square = (self.size, self.size)
        return interpolate(planes, square, mode="bilinear", antialias=True).permute(0, 2, 3, 1)

    def describe(self) -> dict[str, Any]:
        return _described(self.size, "squash", "none", "bilinear, antialiased, unrounded floats")


@dataclass(frozen=True, kw_only=True)
class BucketCrop(Geometry):
    """To the aspect bucket nearest by log ratio: LANCZOS to cover it, then crop the centre. uint8.

    Attributes:
        buckets: ``WxH`` in pixels. Of two that are equally near, the first is taken.
        multiple: what both sides must be multiples of, in pixels.
    """

    buckets: tuple[str, ...] = ASPECT_BUCKETS
    multiple: int = field(default=8, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", tuple(self.buckets))
        if not self.buckets:
            raise UsageError("buckets is empty: name at least one, such as 1024x1024")
        for bucket in self.buckets:
            shape = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", bucket)
            if not shape or any(int(side) % self.multiple for side in shape.groups()):
                raise UsageError(
                    f"bucket {bucket!r} is not WIDTHxHEIGHT in multiples of {self.multiple}, "
                    f"such as {ASPECT_BUCKETS[1]}"
                )

    def bucket_of(self, width: int, height: int) -> str:
        """The bucket (``WxH``) for a picture of this size."""

        def distance(bucket: str) -> float:
            """exp |log(ratio / bucket's ratio)|: exact under exchange of width and height."""
            wide, high = _sides(bucket)
            ours, theirs = width * high, height * wide
            return max(ours, theirs) / min(ours, theirs)

        return min(self.buckets, key=distance)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        wide, high = _sides(self.bucket_of(*image.size))
        scale = max(wide / image.width, high / image.height)
        width, height = max(wide, round(image.width * scale)), max(high, round(image.height * scale))
        return _centre(_resize(image, width, height, Image.Resampling.LANCZOS), wide, high)

    def shape(self, width: int, height: int) -> tuple[int, int]:
        wide, high = _sides(self.bucket_of(width, height))
        return high, wide

    def describe(self) -> dict[str, Any]:
        return {
            "buckets": list(self.buckets),
            "resize": "cover",
            "crop": "centre",
            "interpolation": "lanczos (Pillow)",
        }

    def largest(self) -> tuple[int, int]:
        wide, high = max(map(_sides, self.buckets), key=lambda sides: sides[0] * sides[1])
        return high, wide

    def facts(self, width: int, height: int) -> dict[str, Any]:
        return {"aspect_bucket": self.bucket_of(width, height)}

    def notes(self, width: int, height: int) -> tuple[str, ...]:
        low, high = USUAL_RATIOS
        return () if low * height <= width <= high * height else ("unusual aspect",)


@dataclass(frozen=True, kw_only=True)
class CropToMultiple(Geometry):
    """The picture as it is, its centre cropped so that both sides are multiples of ``multiple``. uint8."""

    on_tensors: ClassVar[bool] = True
    multiple: int = 8

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise UsageError(f"CropToMultiple: multiple={self.multiple} must be at least 1 pixel")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        height, width = self.shape(pixels.shape[1], pixels.shape[0])
        return _centre(pixels, width, height)

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        high, wide = pixels.shape[1:3]
        height, width = self.shape(wide, high)
        top, left = (high - height) // 2, (wide - width) // 2
        return pixels[:, top : top + height, left : left + width]

    def shape(self, width: int, height: int) -> tuple[int, int]:
        if min(width, height) < self.multiple:
            raise DecodeError(f"{width}x{height} pixels: a side is smaller than {self.multiple}")
        return height - height % self.multiple, width - width % self.multiple

    def describe(self) -> dict[str, Any]:
        return _described("original", "none", f"centre, to multiples of {self.multiple}", "none")

    def largest(self) -> None:
        return None


def _described(size: int | str, resize: str, crop: str, interpolation: str) -> dict[str, Any]:
    return {"size": size, "resize": resize, "crop": crop, "interpolation": interpolation}


def _sides(bucket: str) -> tuple[int, int]:
    width, height = bucket.split("x")
    return int(width), int(height)


def _resize(image: Image.Image, width: int, height: int, filter_: Image.Resampling) -> Image.Image:
    """Resize, but for a sliver that would grow without bound when its short side is made to fit."""
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{image.width}x{image.height} pixels: too narrow to fill the crop")
    return image.resize((width, height), filter_)


def _centre(image: Image.Image | np.ndarray, width: int, height: int) -> np.ndarray:
    pixels = np.asarray(image)
    left, top = (pixels.shape[1] - width) // 2, (pixels.shape[0] - height) // 2
    return pixels[top : top + height, left : left + width].copy()
