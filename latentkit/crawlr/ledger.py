"""The photo ledger in memory, the journal that brings it through a kill, and the quarantine ledger.

The format is in `latentkit.sources.photos`. While a sync runs, each photo that it settles is appended to
``.latentkit/photos.journal.jsonl`` as the line that the ledger will have; publishing the ledger folds the
journal in, and then removes it. ``quarantine.jsonl`` is published with it, from the same entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from latentkit.runtime.provenance import utc_now
from latentkit.runtime.readable import escaped
from latentkit.sources.source import Stat
from latentkit.stores.ledger import (
    Damage,
    append_lines,
    as_stat,
    dump,
    optional_int,
    publish_lines,
    read_lines,
)
from latentkit.stores.storage import remove_many


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a photo is set aside.

    Attributes:
        stage: ``read``, ``type`` or ``decode``, as `Rejected` has it; ``name`` or ``conflict``.
        reason: one line, `escaped`.
        time: UTC, ISO 8601.
    """

    stage: str
    reason: str
    time: str

    @classmethod
    def now(cls, stage: str, reason: str) -> Reason:
        """A reason that was found just now."""
        return cls(stage, escaped(reason), utc_now())


@dataclass(slots=True)
class Photo:
    """One entry; the fields are the ledger's."""

    filename: str
    url: str | None = None
    listed: bool = False
    type: str | None = None
    sha256: str | None = None
    stat: Stat | None = None
    quarantine: Reason | None = None
    other_urls: dict[str, str] = field(default_factory=dict)
    metadata: bytes = b"{}"

    def forget(self) -> None:
        """Nothing is known of a file any more."""
        self.type = self.sha256 = self.stat = None

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Photo:
        """Raises KeyError, TypeError or ValueError for a line that is no entry."""
        held = line.get("quarantine")
        texts = [line["filename"], *(line[name] or "" for name in ("url", "type", "sha256"))]
        others = dict(line.get("other_urls", {}))
        texts += [*others, *others.values(), *((held["stage"], held["reason"], held["time"]) if held else ())]
        if not all(isinstance(text, str) for text in texts) or not isinstance(line["metadata"], dict):
            raise TypeError("wrong fields")
        return cls(
            filename=line["filename"],
            url=line["url"],
            listed=bool(line["listed"]),
            type=line["type"],
            sha256=line["sha256"],
            stat=as_stat(optional_int(line["size"]), optional_int(line["mtime_ns"])),
            quarantine=Reason(held["stage"], held["reason"], held["time"]) if held else None,
            other_urls=others,
            metadata=json.dumps(line["metadata"]).encode("ascii"),
        )

    def line(self) -> bytes:
        """The entry as a line of the ledger."""
        fields: dict[str, Any] = {
            "filename": self.filename,
            "url": self.url,
            "listed": self.listed,
            "type": self.type,
            "sha256": self.sha256,
            "size": self.stat.size if self.stat else None,
            "mtime_ns": self.stat.mtime_ns if self.stat else None,
        }
        if self.quarantine:
            fields["quarantine"] = asdict(self.quarantine)
        if self.other_urls:
            fields["other_urls"] = self.other_urls
        return dump(fields)[:-1] + b', "metadata": ' + self.metadata + b"}"


class PhotoLedger:
    """The entries by filename.

    Args:
        path: the ledger; need not exist. The quarantine ledger and the journal lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal = path.parent / ".latentkit" / "photos.journal.jsonl"
        self._damages = [Damage(path), Damage(self._journal)]
        self.photos: dict[str, Photo] = {}
        for damage in self._damages:
            for photo, _ in read_lines(damage.path, Photo.parse, damage):
                self.photos[photo.filename] = photo

    def report_damage(self) -> None:
        """Say which lines could not be read, and keep them aside. Writes."""
        for damage in self._damages:
            damage.report(keep_cut=False)

    def note(self, photos: Iterable[Photo]) -> None:
        """Write entries down, now; they are on the disk when this returns."""
        append_lines(self._journal, [photo.line() for photo in photos])

    def publish(self, refused: Iterable[tuple[str, Reason]]) -> None:
        """Publish the ledger and the quarantine ledger, and remove the journal.

        Args:
            refused: (key, why) of what is set aside and has no entry, or has a good one all the same.
        """
        photos = [photo for _, photo in sorted(self.photos.items())]
        publish_lines(self._path, (photo.line() for photo in photos))
        aside = [(photo.filename, photo.quarantine) for photo in photos if photo.quarantine]
        lines = sorted({(key, why.stage, why.reason, why.time) for key, why in [*aside, *refused]})
        quarantine = self._path.with_name("quarantine.jsonl")
        if lines:
            publish_lines(
                quarantine,
                (dump(dict(zip(("key", "stage", "reason", "time"), line, strict=True))) for line in lines),
            )
        else:
            remove_many([quarantine])
        remove_many([self._journal])
