"""What was read: ``imagenet1k_provenance.json``, for papers and for the next run."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from latentkit.sources.imagenet.index import IndexedArchive
from latentkit.stores.storage import publish_json


@dataclass(frozen=True)
class Archive:
    """An archive that was read whole.

    Attributes:
        role: ``train``, ``val`` or ``devkit``.
        file: where it is, as the user named it, and what it was when it was read.
        official: whether the md5 is the one that image-net.org publishes.
        classes, pictures: in it; None for the devkit.
        deviations: from the official one, in words; accepted by ``allow_variant=true``.
    """

    role: str
    file: IndexedArchive
    official: bool
    classes: int | None = None
    pictures: int | None = None
    deviations: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        file: dict[str, Any] = fields.pop("file")
        path = self.file.path
        return {"role": self.role, "path": path, "filename": Path(path).name} | file | fields

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        file = IndexedArchive(*(values.pop(name) for name in ("path", "size", "mtime_ns", "md5", "sha256")))
        del values["filename"]
        return cls(file=file, **values)


def provenance_path(output_dir: Path) -> Path:
    return output_dir / "imagenet1k_provenance.json"


def index_path(output_dir: Path, split: str) -> Path:
    return output_dir / f"imagenet1k_{split}_index.safetensors"


def read_provenance(output_dir: Path) -> dict[str, Archive]:
    """Role -> archive; empty where there is no such file, or a damaged one: all is read again."""
    try:
        content = json.loads(provenance_path(output_dir).read_bytes())
        archives = [Archive.from_json(values) for values in content["archives"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {archive.role: archive for archive in archives}


def publish_provenance(output_dir: Path, archives: dict[str, Archive]) -> None:
    """Publish it, with the time; a file that says the same already is left as it is.

    What was noted of other roles stays: an archive that is not at hand now was read all the same.
    """
    before = read_provenance(output_dir)
    archives = before | archives
    if archives == before:
        return
    content = {
        "generated_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "archives": [archives[role].to_json() for role in sorted(archives)],
    }
    publish_json(provenance_path(output_dir), content)
