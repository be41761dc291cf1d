"""What a sync keeps: the photo ledger (its format is in `latentkit.sources.approved`), links, and quarantine.

While a sync runs, each photo that it settles is appended to ``.latentkit/photos.journal.jsonl`` as the line
that the ledger will have; publishing the ledger folds the journal in, and then removes it.
``quarantine.jsonl`` is published with it, from the same entries.
"""

import json
import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from latentkit.crawlr.folder import Change, ForeignError, Links
from latentkit.crawlr.photo_list import refusal, shown
from latentkit.crawlr.tally import Tally
from latentkit.runtime.provenance import utc_now
from latentkit.runtime.readable import escaped
from latentkit.sources.files import folded
from latentkit.sources.library import Library
from latentkit.sources.source import Fingerprint
from latentkit.stores import ledger
from latentkit.stores.storage import publish_links, remove_many, remove_temporaries

_FIELDS = ("filename", "url", "listed", "type")

_BATCH = 64
"""Photos that are linked and written down together, with one sync of the disk."""


class Reason(NamedTuple):
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
    def now(cls, stage: str, reason: str) -> Self:
        """A reason that was found just now."""
        return cls(stage, escaped(reason), utc_now())


@dataclass(slots=True)
class Photo:
    """One entry. `type` and `source` are the link's suffix and the file's bytes, where it is whole."""

    filename: str
    url: str | None = None
    listed: bool = False
    type: str | None = None
    source: Fingerprint | None = None
    quarantine: Reason | None = None
    other_urls: dict[str, str] = field(default_factory=dict)
    metadata: bytes = b"{}"

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for a line that is no entry."""
        filename, url, listed, suffix = (line[name] for name in _FIELDS)
        held, others = line.get("quarantine"), dict(line.get("other_urls", {}))
        reason = Reason(held["stage"], held["reason"], held["time"]) if held else None
        texts = (filename, url or "", suffix or "", *others, *others.values(), *(reason or ()))
        if not all(isinstance(text, str) for text in texts) or not isinstance(line["metadata"], dict):
            raise TypeError("wrong fields")
        metadata = json.dumps(line["metadata"]).encode("ascii")
        return cls(filename, url, bool(listed), suffix, ledger.read_source(line), reason, others, metadata)

    def line(self) -> bytes:
        """The entry as a line of the ledger."""
        fields = {name: getattr(self, name) for name in _FIELDS} | ledger.source_fields(self.source)
        if self.quarantine:
            fields["quarantine"] = self.quarantine._asdict()
        if self.other_urls:
            fields["other_urls"] = self.other_urls
        return ledger.dump(fields)[:-1] + b', "metadata": ' + self.metadata + b"}"


class Keeper:
    """The photo ledger and the links of a library. One thread asks.

    Args:
        library: the folders; need not exist.
        path: the photo ledger; need not exist. The quarantine ledger and the journal lie beside it.
        dry_run: change nothing on the disk.

    Attributes:
        photos: the entries by filename.
        tally: counts names, links and conflicts here, the rest elsewhere.
        withdrawn: once published: photos that the list as last read to its end no longer has.
    """

    def __init__(self, library: Library, path: Path, *, dry_run: bool) -> None:
        self.photos: dict[str, Photo] = {}
        self.tally = Tally()
        self.withdrawn: set[str] = set()
        self._aside: list[tuple[str, Reason]] = []
        self._dry_run = dry_run
        self._path = path
        self._journal = path.parent / ".latentkit" / "photos.journal.jsonl"
        for file in (path, self._journal):
            damage = ledger.Damage(file)
            entries = ledger.read_lines(file, Photo.parse, damage)
            self.photos.update((photo.filename, photo) for photo, _ in entries)
            if not dry_run:
                damage.report(keep_cut=False)
        if not dry_run:
            for folder in (library.raw, library.root, path.parent, self._journal.parent):
                remove_temporaries(folder, below=False)
        self._links = Links(library.root, library.raw)
        self._changes: list[Change] = []
        self._fresh: list[Photo] = []
        self._owners: dict[str, str] = {}
        raw = set(os.listdir(library.raw)) if library.raw.is_dir() else set()  # noqa: PTH208 - names, no paths
        for name in (*sorted(raw & self.photos.keys()), *sorted(raw)):
            self._owners.setdefault(folded(name), name)

    def admit(self, filename: str) -> Photo | None:
        """The entry of a photo of the list, a new one if need be; None when the name is refused.

        Of two names that are one on some disk, the one that is here already has it, else the first.
        """
        why = refusal(filename)
        if why is None:
            owner = self._owners.setdefault(folded(filename), filename)
            if owner == filename:
                return self.photos.setdefault(filename, Photo(filename))
            why = f"on a disk blind to case or Unicode form it is {owner}, which is there"
        self.tally["refused"] += 1
        self._aside.append((shown(filename), Reason.now("name", why)))
        return None

    def conflict(self, photo: Photo, reason: str) -> None:
        """Something stands against a photo, and is left as it is."""
        self.tally["conflicts"] += 1
        self._aside.append((photo.filename, Reason.now("conflict", reason)))

    def note(self, photo: Photo, *, link: bool = False, fresh: bool = True) -> None:
        """Write an entry down, and make the link of a whole photo right, with the next batch.

        Args:
            link: whether the photo is whole.
            fresh: whether the entry has changed.
        """
        if link:
            assert photo.type is not None, "it is whole"
            try:
                change = self._links.change(photo.filename, photo.type)
            except ForeignError as error:
                self.conflict(photo, str(error))
            else:
                self.tally[f"links_{change.change}"] += 1
                self._changes += [change] * (change.change != "unchanged")
        self._fresh += [photo] * fresh
        if len(self._changes) + len(self._fresh) >= _BATCH:
            self._flush()

    def publish(self, listed: Set[str], *, complete: bool) -> None:
        """Publish links, ledger and quarantine ledger; in a dry run only count.

        Args:
            listed: the names that this sync found on the list.
            complete: whether these are all; then no other photo is listed any more.
        """
        for name, photo in self.photos.items():
            if name in listed and photo.quarantine:
                self.tally["quarantined"] += 1
                self.tally["unknown"] += photo.quarantine.stage == "type"
            if complete:
                photo.listed = name in listed
                photo.quarantine = photo.quarantine if photo.listed else None
        self.withdrawn = {name for name, photo in self.photos.items() if not photo.listed}
        if complete:
            unlisted = self._links.unlisted(listed)
            self.withdrawn |= unlisted
            self.tally["withdrawn"] = len(unlisted)
        if self._dry_run:
            return
        self._flush()
        ledger.publish_lines(self._path, (photo.line() for _, photo in sorted(self.photos.items())))
        quarantine = self._path.with_name("quarantine.jsonl")
        aside = sorted({(key, *reason) for key, reason in self._set_aside()})
        if aside:
            names = ("key", *Reason._fields)
            lines = (dict(zip(names, line, strict=True)) for line in aside)
            ledger.publish_lines(quarantine, map(ledger.dump, lines))
        remove_many([self._journal] if aside else [quarantine, self._journal])

    def lacks(self, listed: Set[str]) -> bool:
        """Whether a photo that was listed, or that has a link, is not among these."""
        gone = (photo.listed and name not in listed for name, photo in self.photos.items())
        return any(gone) or bool(self._links.unlisted(listed))

    def reasons(self) -> dict[str, str]:
        """Key -> why, of all that is set aside."""
        return {key: why.reason for key, why in self._set_aside()}

    def _set_aside(self) -> list[tuple[str, Reason]]:
        held = [(name, photo.quarantine) for name, photo in self.photos.items() if photo.quarantine]
        return held + self._aside

    def _flush(self) -> None:
        """A photo has a link all the time, unless the old one's name is the new one's on some disk."""
        if self._dry_run:
            return
        stale = [(path, change.path) for change in self._changes for path in change.stale]
        one = {old for old, new in stale if folded(old.name) == folded(new.name)}
        remove_many(one)
        publish_links({change.path: change.target for change in self._changes})
        remove_many(old for old, _ in stale if old not in one)
        if self._fresh:
            ledger.append_lines(self._journal, [photo.line() for photo in self._fresh])
        self._changes, self._fresh = [], []
