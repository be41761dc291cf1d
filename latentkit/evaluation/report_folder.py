"""The folder of an evaluation's results: what may be written there, and what an earlier run has left."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from latentkit.errors import UsageError
from latentkit.prediction.background import BackgroundThread
from latentkit.report.evaluation import REPORT
from latentkit.stores.npy import keyed_path
from latentkit.stores.storage import (
    Publication,
    publish,
    publish_json,
    publish_many,
    remove_many,
    remove_temporaries,
)

SHEET = "reconstructions.png"
CONFIGURATION = Path(".latentkit", "evaluation.yaml")
"""Exists once an evaluation has begun here: the other files are then its own."""

SAVED = Path(".latentkit", "images.json")
"""The keys of the pictures in ``images`` that evaluations saved there."""


_ELSEWHERE = "give another report_dir=FOLDER"

SUFFIX = ".png"
COMPRESSION = 1
"""zlib's lowest level: photographs hardly shrink further."""

Pictures = tuple[Sequence[str], np.ndarray]
"""Keys, and uint8 [B, H, W, 3]."""


@dataclass(frozen=True)
class ReportFolder:
    """``report.json``, ``reconstructions.png`` and ``images/`` of one evaluation, the last that ran there.

    Nobody else's file is overwritten or removed. Whoever calls `begin` and `publish` holds the folder's lock.
    """

    path: Path

    @property
    def images(self) -> Path:
        """Where generated pictures go, ``<key>.png``."""
        return self.path / "images"

    def check(self, saved: Sequence[str] | None) -> None:
        """Before anything is written.

        Args:
            saved: keys of the pictures that will be saved; None where none will be.

        Raises:
            UsageError: somebody else's file has the name of one of ours, or pictures would lie among others.
            LatentkitError: a key that leads out of the folder.
        """
        ours = (self.path / CONFIGURATION).exists()
        for name in (REPORT, SHEET):
            if not ours and (self.path / name).exists():
                raise UsageError(f"{self.path / name} was not written by an evaluation: {_ELSEWHERE}")
        if saved is None:
            return
        before = {*self._saved_before()}
        if not before and self.images.is_dir() and any(self.images.iterdir()):
            raise UsageError(f"{self.images} has files in it that no evaluation wrote: {_ELSEWHERE}")
        for key in saved:
            path = keyed_path(self.images, key, SUFFIX)
            if key not in before and path.exists():
                raise UsageError(f"{path} was not written by an evaluation: {_ELSEWHERE}")

    def begin(self, configuration: str, saved: Sequence[str] | None) -> None:
        """Make the folder this run's own: pictures of an earlier one that it will not write again go.

        Args:
            configuration: the run's, as YAML.
            saved: as in `check`; where it is None, ``images`` stays.
        """
        remove_temporaries(self.path, below=False)
        publish(self.path / CONFIGURATION, lambda file: file.write(configuration.encode()))
        if saved is not None:
            remove_temporaries(self.images, below=True)
            stale = {*self._saved_before()} - {*saved}
            remove_many(keyed_path(self.images, key, SUFFIX) for key in sorted(stale))
            publish_json(self.path / SAVED, list(saved))

    def publish(self, report: Mapping[str, Any], sheet: bytes | None, *, save_images: bool) -> str:
        """Publish the results; what lies there now, in words.

        Args:
            report: JSON values.
            sheet: reconstructions as a PNG file; None where there are none, then an earlier one goes.
        """
        if sheet is None:
            remove_many([self.path / SHEET])
        else:
            publish(self.path / SHEET, lambda file: file.write(sheet))
        publish_json(self.path / REPORT, report)
        names = [REPORT, *[SHEET] * (sheet is not None), *["images/"] * save_images]
        stale = "" if save_images or not self._saved_before() else "; images/ there is of an earlier run"
        return f"in {self.path}: {', '.join(names)}{stale}"

    def _saved_before(self) -> list[str]:
        try:
            return json.loads((self.path / SAVED).read_bytes())
        except (OSError, ValueError):
            return []


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
