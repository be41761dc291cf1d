"""Bytes to arrays: decoding, orientation, crops and aspect buckets. Importing it loads no torch."""

from latentkit.pixels.decode import DecodeError, Picture, Pillow
from latentkit.pixels.geometry import (
    ASPECT_BUCKETS,
    AdmCrop,
    AntialiasedResize,
    BucketCrop,
    CropToMultiple,
    Geometry,
    ResizeSquare,
)

__all__ = [
    "ASPECT_BUCKETS",
    "AdmCrop",
    "AntialiasedResize",
    "BucketCrop",
    "CropToMultiple",
    "DecodeError",
    "Geometry",
    "Picture",
    "Pillow",
    "ResizeSquare",
]
