"""Where pictures come from. Importing it loads no torch."""

from latentkit.sources.approved import ApprovedSource
from latentkit.sources.captions import Captioned, Written
from latentkit.sources.demo import DemoSource
from latentkit.sources.folder import FolderSource
from latentkit.sources.imagenet.archive import ImageNetArchive
from latentkit.sources.imagenet.tree import ImageNetTree
from latentkit.sources.source import Fingerprint, First, Item, Source, SourceError, Stat

__all__ = [
    "ApprovedSource",
    "Captioned",
    "DemoSource",
    "Fingerprint",
    "First",
    "FolderSource",
    "ImageNetArchive",
    "ImageNetTree",
    "Item",
    "Source",
    "SourceError",
    "Stat",
    "Written",
]
