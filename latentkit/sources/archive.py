import zipfile
from dataclasses import dataclass

from latentkit.sources import Item, Source


@dataclass(kw_only=True, eq=False)
class ZipSource(Source):
    """The JPEGs of a zip archive, by name."""

    root: str
    orient = True  # apply EXIF orientation
    strict = True  # refuse a JPEG that the decoder had to guess at
    classes = ()
    ignored = 0

    def __post_init__(self):
        with zipfile.ZipFile(self.root) as archive:
            self.names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        return Item(key=name.removesuffix(".jpg"), location=f"{self.root}/{name}")

    def read(self, index):
        with zipfile.ZipFile(self.root) as archive:
            return archive.read(self.names[index]), None

    def stat(self, index):
        return None  # nothing to stat: a second run reads and hashes the bytes again
