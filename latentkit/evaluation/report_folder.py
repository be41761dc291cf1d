"""The folder of an evaluation's results: what may be written there, and what an earlier run has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentkit.errors import UsageError
from latentkit.report.evaluation import REPORT
from latentkit.stores.publish import publish, publish_json, remove_many, remove_temporaries

SHEET = "reconstructions.png"
_CONFIGURATION = Path(".latentkit", "config.yaml")
_OWN_IMAGES = Path(".latentkit", "images")
"""There once an evaluation has begun to save pictures: those in ``images`` are not somebody else's."""


@dataclass(frozen=True)
class ReportFolder:
    """``report.json``, ``reconstructions.png`` and ``images/`` of one evaluation, the last that ran there.

    Whoever calls `begin` and `publish` holds the folder's lock.
    """

    path: Path

    @property
    def images(self) -> Path:
        """Where generated pictures go, ``<key>.png``."""
        return self.path / "images"

    def check(self, *, save_images: bool) -> None:
        """Raise UsageError where pictures would mix with somebody else's."""
        if save_images and not (self.path / _OWN_IMAGES).exists() and _is_filled(self.images):
            raise UsageError(
                f"{self.images} is there, and no evaluation wrote it: give another report_dir=FOLDER"
            )

    def begin(self, configuration: str, saved: Sequence[str] | None) -> None:
        """Make the folder this run's own: pictures of an earlier one that it will not write again go.

        Args:
            configuration: the run's, as YAML.
            saved: keys of the pictures that will be saved; None where none will be: then ``images`` stays.
        """
        remove_temporaries(self.path, below=False)
        publish(self.path / _CONFIGURATION, lambda file: file.write(configuration.encode()))
        if saved is not None:
            publish(self.path / _OWN_IMAGES, lambda file: file.write(b"latentkit.evaluate\n"))
            remove_temporaries(self.images, below=True)
            mine = {self.images / f"{key}.png" for key in saved}
            remove_many(path for path in self.images.rglob("*.png") if path not in mine)

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
        stale = "" if save_images or not _is_filled(self.images) else "; images/ there is of an earlier run"
        return f"in {self.path}: {', '.join(names)}{stale}"


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
