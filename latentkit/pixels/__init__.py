"""Bytes to arrays: decoding, orientation, crops and aspect buckets. Importing it loads no torch."""

from latentkit.pixels.decode import DecodeError, Picture, decode
from latentkit.pixels.geometry import (
    ASPECT_BUCKETS,
    AdmCrop,
    AntialiasedResize,
    BucketCrop,
    Geometry,
    RoundDown,
    Squash,
)

__all__ = [
    "ASPECT_BUCKETS",
    "AdmCrop",
    "AntialiasedResize",
    "BucketCrop",
    "DecodeError",
    "Geometry",
    "Picture",
    "RoundDown",
    "Squash",
    "decode",
]
