"""Bytes to arrays: decoding, orientation, crops and aspect buckets. Importing it loads no torch."""

from latentkit.pixels.decode import Pillow
from latentkit.pixels.geometry import AdmCrop, BucketCrop, CropToMultiple, Geometry, ResizeSquare
from latentkit.pixels.header import DecodeError

__all__ = ["AdmCrop", "BucketCrop", "CropToMultiple", "DecodeError", "Geometry", "Pillow", "ResizeSquare"]
