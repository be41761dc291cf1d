"""Preparing: every archive read once, told apart, indexed, and noted; what was read before is not again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from rich.console import Console

from latentkit.errors import LatentkitError, UsageError
from latentkit.imagenet.devkit import Devkit, read_devkit
from latentkit.imagenet.indexing import make_index, members_of
from latentkit.imagenet.members import Members, train_members, val_members
from latentkit.imagenet.official import OFFICIAL, ROLES, Look, Official, deviations, looks_like, no_tar
from latentkit.imagenet.provenance import Archive, index_path, publish_provenance, read_provenance
from latentkit.imagenet.reading import Reading, read_archive
from latentkit.imagenet.tar import ForeignError, Parser, TarError
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable, stat_of_path
from latentkit.sources.imagenet.index import Index, IndexedArchive, read_index
from latentkit.stores.publish import publish, remove_temporaries

_T = TypeVar("_T")

_PARSERS: dict[str, Callable[[int], Parser[Members]]] = {"train": train_members, "val": val_members}
_MEGABYTE = 10**6


@dataclass
class Preparation:
    """One run over the archives that are there.

    Attributes:
        archives: role -> path.
        output_dir: gets the indexes and the provenance.
        allow_variant: go on with a whole archive that is not the official one, and note how it differs.
        console: for the progress report.
        official: what the archives have to be.
        overwrite: read the archives also when they were read before and look unchanged.
    """

    archives: Mapping[str, Path]
    output_dir: Path
    allow_variant: bool
    console: Console
    official: Mapping[str, Official] = field(default_factory=lambda: OFFICIAL)
    overwrite: bool = False

    @property
    def splits(self) -> list[str]:
        """Those that can be indexed, in the order of the work; validation labels need the devkit.

        Raises:
            UsageError: none can.
        """
        wanted = [role for role in ROLES if role in self.archives and role != "devkit"]
        splits = [split for split in wanted if split == "train" or "devkit" in self.archives]
        if not splits:
            raise UsageError(f"nothing to prepare: {'; '.join(self.lacking())}")
        return splits

    def lacking(self) -> list[str]:
        """What the archives that are not there keep from being done, a line each."""
        absent = {role: self.official[role].filename for role in ROLES if role not in self.archives}
        lines = [
            f"no {absent[split]}: dataset.split={split} cannot be encoded"
            for split in ("train", "val")
            if split in absent
        ]
        if "devkit" in absent and "val" in self.archives:
            lines.append(f"no {absent['devkit']}: val is left out, its labels are there")
        if "devkit" in absent and "train" in self.archives:
            lines.append(f"no {absent['devkit']}: the classes of train have no names in words")
        return lines

    def noted(self) -> dict[str, Archive]:
        """Role -> what an earlier run noted of the archive, where path, size and mtime are still those."""
        noted = {} if self.overwrite else read_provenance(self.output_dir)
        return {
            role: noted[role]
            for role, path in self.archives.items()
            if role in noted and (noted[role].path, noted[role].stat) == (str(path), stat_of_path(path))
        }

    def run(self) -> list[Archive]:
        """Read, judge, index and note. Each archive is noted as soon as it is read, its index before it.

        What the devkit, sizes and first bytes say of all archives is said before a large one is read.

        Raises:
            LatentkitError: an archive is damaged, or is not the official one, and says what it looks like; of
                several the last, the others are printed.
        """
        splits = self.splits
        remove_temporaries(self.output_dir, below=False)
        noted = self.noted()
        devkit = None
        refusals = [refusal for split in splits if (refusal := self._refusal_unread(split))]
        if "devkit" in self.archives:
            try:
                devkit = read_devkit(self.archives["devkit"])
                noted["devkit"] = self._accepted(noted.get("devkit") or self._read_devkit())
            except LatentkitError as error:
                refusals.append(error)
        if refusals:
            for refusal in refusals[:-1]:
                self.console.print(f"latentkit: {refusal}")
            raise refusals[-1]
        for split in splits:
            noted[split] = self._prepare(split, noted.get(split), devkit, noted.get("devkit"))
            publish_provenance(self.output_dir, noted)
        return [noted[role] for role in ROLES if role in noted]

    def _prepare(
        self, split: str, noted: Archive | None, devkit: Devkit | None, devkit_file: Archive | None
    ) -> Archive:
        path = index_path(self.output_dir, split)
        labels = devkit_file.sha256 if devkit_file else None
        old = self._index_of(noted, path)
        if old is not None and noted is not None and old.devkit == labels:
            return self._accepted(noted)
        if old is not None:
            identity, members = old.archive, members_of(old)
        else:
            identity, members = self._read_split(split)
        index = make_index(split, identity, members, devkit, labels)
        archive = self._accepted(self._describe(index, devkit))
        content = index.content()

        def validate(file: BinaryIO) -> None:
            if file.read() != content:
                raise ValueError("it reads back differently")

        publish(path, lambda file: file.write(content), validate)
        return archive

    def _index_of(self, noted: Archive | None, path: Path) -> Index | None:
        """The index that belongs to an archive as it was noted; None when it has to be made."""
        if noted is None:
            return None
        try:
            index = read_index(path)
        except LatentkitError:
            return None
        there = index.archive
        return (
            index
            if (there.path, there.stat, there.sha256) == (noted.path, noted.stat, noted.sha256)
            else None
        )

    def _refusal_unread(self, split: str) -> LatentkitError | None:
        """Why a split's archive cannot be the right one, as far as can be told without reading it."""
        path, official = self.archives[split], self.official[split]
        size = path.stat().st_size
        if no_tar(path) is not None:
            return self._refusal(split, "it is no tar")
        if size != official.size and not self.allow_variant:
            return self._refusal(split, f"{size:,} bytes, not {official.size:,}")
        return None

    def _read_split(self, split: str) -> tuple[IndexedArchive, Members]:
        path = self.archives[split]
        try:
            reading = self._read(path, _PARSERS[split](path.stat().st_size))
        except TarError as error:
            raise self._refusal(split, str(error), broken=error) from None
        assert reading.found is not None, "a parser returns or raises before the file's end"
        return _identity(path, reading), reading.found

    def _read_devkit(self) -> Archive:
        path, official = self.archives["devkit"], self.official["devkit"]
        reading: Reading[None] = self._read(path, None)
        return self._archive(
            "devkit", _identity(path, reading), deviations(official, reading.stat.size, reading.md5)
        )

    def _read(self, path: Path, parser: Parser[_T] | None) -> Reading[_T]:
        megabytes = path.stat().st_size // _MEGABYTE
        done = 0
        with ProgressReport(f"reading {printable(path.name)}", megabytes, self.console, "MB") as report:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                report.show(done // _MEGABYTE)

            return read_archive(path, parser, advance)

    def _describe(self, index: Index, devkit: Devkit | None) -> Archive:
        """An archive that was indexed, with its deviations."""
        there = {index.classes[label] for label in np.unique(index.label).tolist()}
        pictures = len(index.label)
        found = deviations(
            self.official[index.split], index.archive.size, index.archive.md5, len(there), pictures
        )
        if devkit is not None and there != set(devkit.classes):
            found.append(f"its {len(there):,} classes are not the devkit's {len(devkit.classes):,}")
        return self._archive(index.split, index.archive, found, len(there), pictures)

    def _archive(
        self,
        role: str,
        file: IndexedArchive,
        found: list[str],
        classes: int | None = None,
        pictures: int | None = None,
    ) -> Archive:
        return Archive(
            role=role,
            path=file.path,
            filename=Path(file.path).name,
            size=file.size,
            mtime_ns=file.mtime_ns,
            md5=file.md5,
            sha256=file.sha256,
            official=file.md5 == self.official[role].md5,
            classes=classes,
            pictures=pictures,
            deviations=found,
        )

    def _accepted(self, archive: Archive) -> Archive:
        """The archive, when it is the official one or a variant that may be."""
        if archive.deviations and not self.allow_variant:
            raise self._refusal(archive.role, "; ".join(archive.deviations))
        return archive

    def _refusal(self, role: str, why: str, broken: TarError | None = None) -> LatentkitError:
        """What an archive looks like; `broken` is why nobody could use it, if so."""
        path, official = self.archives[role], self.official[role]
        what = f"{printable(path)} is not the official {official.filename}: {why}"
        if role == "devkit":
            return LatentkitError(f"{what}; download it again, or give allow_variant=true to go on with it")
        look = looks_like(path, role, official)
        if look.usable and isinstance(broken, ForeignError):
            look = Look("an archive that was packed anew: download the official one", False)
        elif look.usable and (broken is not None or path.stat().st_size == official.size):
            look = Look("a damaged download: download it again", broken is None)
        hint = "; allow_variant=true goes on with it and notes this" if look.usable else ""
        return LatentkitError(f"{what}. It looks like {look.text}{hint}")


def _identity(path: Path, reading: Reading[_T]) -> IndexedArchive:
    return IndexedArchive(str(path), reading.stat.size, reading.stat.mtime_ns, reading.md5, reading.sha256)
