"""What a sync keeps: entries of the ledger, links, and what is set aside. One thread asks."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from latentkit.crawlr.ledger import Photo, PhotoLedger, Reason
from latentkit.crawlr.links import Change, ForeignError, Links
from latentkit.crawlr.names import refusal, shown
from latentkit.crawlr.tally import Tally
from latentkit.sources.files import folded
from latentkit.sources.library import Library
from latentkit.stores.storage import publish_links, remove_many, remove_temporaries

_BATCH = 64
"""Photos that are linked and written down together, with one sync of the disk."""


class Keeper:
    """The photo ledger and the links of a library.

    Args:
        library: the folders; need not exist.
        photos: the photo ledger; need not exist.
        dry_run: change nothing on the disk.

    Attributes:
        tally: counts names, links and conflicts here, the rest elsewhere.
        aside: (key, why) of each refused name and each conflict of this sync.
        withdrawn: once published: photos that the list as last read to its end no longer has.
    """

    def __init__(self, library: Library, photos: Path, *, dry_run: bool) -> None:
        self.tally = Tally()
        self.aside: list[tuple[str, Reason]] = []
        self.withdrawn: set[str] = set()
        self._dry_run = dry_run
        self._ledger = PhotoLedger(photos)
        if not dry_run:
            self._ledger.report_damage()
            for folder in (library.raw, library.root, photos.parent):
                remove_temporaries(folder, below=False)
            remove_temporaries(photos.parent / ".latentkit", below=False)
        self._links = Links(library.root, library.raw)
        self._changes: list[Change] = []
        self._fresh: list[Photo] = []
        self._owners: dict[str, str] = {}
        raw = set(os.listdir(library.raw)) if library.raw.is_dir() else set()  # noqa: PTH208 - names, no paths
        for name in (*sorted(raw & self._ledger.photos.keys()), *sorted(raw)):
            self._owners.setdefault(folded(name), name)

    def admit(self, filename: str) -> Photo | None:
        """The entry of a photo of the list, a new one if need be; None when the name is refused.

        Of two names that are one on some disk, the one that is here already has it, else the first.
        """
        why = refusal(filename)
        if why is None:
            owner = self._owners.setdefault(folded(filename), filename)
            if owner == filename:
                return self._ledger.photos.setdefault(filename, Photo(filename))
            why = f"on a disk blind to case or Unicode form it is {owner}, which is there"
        self.tally.refused += 1
        self._set_aside(shown(filename), "name", why)
        return None

    def conflict(self, photo: Photo, reason: str) -> None:
        """Something stands against a photo, and is left as it is."""
        self.tally.conflicts += 1
        self._set_aside(photo.filename, "conflict", reason)

    def link(self, photo: Photo) -> None:
        """Make a whole photo's link right, with the next batch."""
        assert photo.type is not None, "it is whole"
        try:
            change = self._links.change(photo.filename, photo.type)
        except ForeignError as error:
            self.conflict(photo, str(error))
            return
        match change.change:
            case "created":
                self.tally.links_created += 1
            case "updated":
                self.tally.links_updated += 1
            case "unchanged":
                self.tally.links_unchanged += 1
                return
        self._changes.append(change)
        self._flush_full()

    def note(self, photo: Photo) -> None:
        """Write an entry down, with the next batch."""
        self._fresh.append(photo)
        self._flush_full()

    def publish(self, listed: Set[str], *, complete: bool) -> None:
        """Publish links, ledger and quarantine ledger; in a dry run only count.

        Args:
            listed: the names that this sync found on the list.
            complete: whether these are all; then no other photo is listed any more.
        """
        for name, photo in self._ledger.photos.items():
            if name in listed and photo.quarantine:
                self.tally.quarantined += 1
                self.tally.unknown += photo.quarantine.stage == "type"
            if complete:
                photo.listed = name in listed
                photo.quarantine = photo.quarantine if photo.listed else None
        self.withdrawn = {name for name, photo in self._ledger.photos.items() if not photo.listed}
        if complete:
            unlisted = self._links.unlisted(listed)
            self.withdrawn |= unlisted
            self.tally.withdrawn = len(unlisted)
        if not self._dry_run:
            self._flush()
            self._ledger.publish(self.aside)

    def lacks(self, listed: Set[str]) -> bool:
        """Whether a photo that was listed, or that has a link, is not among these."""
        gone = (photo.listed and name not in listed for name, photo in self._ledger.photos.items())
        return any(gone) or bool(self._links.unlisted(listed))

    def reasons(self) -> dict[str, str]:
        """Key -> why, of all that is set aside."""
        photos = self._ledger.photos.values()
        held = {photo.filename: photo.quarantine.reason for photo in photos if photo.quarantine}
        return held | {key: reason.reason for key, reason in self.aside}

    def _set_aside(self, key: str, stage: str, reason: str) -> None:
        self.aside.append((key, Reason.now(stage, reason)))

    def _flush_full(self) -> None:
        if len(self._changes) + len(self._fresh) >= _BATCH and not self._dry_run:
            self._flush()

    def _flush(self) -> None:
        """A photo has a link all the time, unless the old one's name is the new one's on some disk."""
        stale = [(path, change.path) for change in self._changes for path in change.stale]
        one = {old for old, new in stale if folded(old.name) == folded(new.name)}
        remove_many(one)
        publish_links({change.path: change.target for change in self._changes})
        remove_many(old for old, _ in stale if old not in one)
        if self._fresh:
            self._ledger.note(self._fresh)
        self._changes, self._fresh = [], []
