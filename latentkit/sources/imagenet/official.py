"""The archives of ImageNet-1k as image-net.org publishes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Official:
    """What an archive has to be.

    Attributes:
        filename: as it is published; suffixes that downloads add are found too.
        md5: as image-net.org publishes it.
        size: bytes.
        classes, pictures: in it; None for the devkit.
    """

    filename: str
    md5: str
    size: int
    classes: int | None = None
    pictures: int | None = None

    def deviations(
        self, size: int, md5: str, classes: int | None = None, pictures: int | None = None
    ) -> list[str]:
        """How a whole archive differs from this one, in words; empty when it is this one."""
        counts = {
            "bytes": (size, self.size),
            "classes": (classes, self.classes),
            "pictures": (pictures, self.pictures),
        }
        found = [
            f"{there:,} {what}, not {wanted:,}" for what, (there, wanted) in counts.items() if there != wanted
        ]
        return found if md5 == self.md5 else [*found, f"md5 {md5}, not {self.md5}"]


OFFICIAL = {
    "devkit": Official("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf", 2568145),
    "val": Official("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6744924160, 1000, 50000),
    "train": Official(
        "ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147897477120, 1000, 1281167
    ),
}
