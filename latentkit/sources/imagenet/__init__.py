"""ImageNet-1k (ILSVRC2012): straight from its archives, or as extracted folders."""

from latentkit.sources.imagenet.archive import ImageNetArchive
from latentkit.sources.imagenet.tree import ImageNetTree

__all__ = ["ImageNetArchive", "ImageNetTree"]
