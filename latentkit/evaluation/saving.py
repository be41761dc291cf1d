"""Pictures as PNG files, written in passing by a thread of their own."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from latentkit.prediction.background import BackgroundThread
from latentkit.stores.npy import keyed_path
from latentkit.stores.storage import Publication, publish_many

SUFFIX = ".png"
COMPRESSION = 1
"""zlib's lowest level: photographs hardly shrink further."""

Pictures = tuple[Sequence[str], np.ndarray]
"""Keys, and uint8 [B, H, W, 3]."""


class PictureFolder(BackgroundThread[Pictures]):
    """``<key>.png`` of every picture that is put, published some batches at a time.

    `put`, `flush` and leaving the context raise LatentkitError when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("latentkit-pictures", self._publish)
        self._folder = folder

    def _publish(self, results: Sequence[Pictures]) -> None:
        publish_many(
            [
                _publication(keyed_path(self._folder, key, SUFFIX), picture)
                for keys, pictures in results
                for key, picture in zip(keys, pictures, strict=True)
            ]
        )


def _publication(path: Path, picture: np.ndarray) -> Publication:
    encoded = io.BytesIO()

    def write(file: BinaryIO) -> None:
        Image.fromarray(picture).save(encoded, "PNG", compress_level=COMPRESSION)
        file.write(encoded.getbuffer())

    def validate(file: BinaryIO) -> None:
        if file.read() != encoded.getbuffer():
            raise ValueError("it reads back differently")

    return Publication(path, write, validate)
