"""Preparing: each archive is read once, checked, indexed and recorded; unchanged ones are skipped.

``imagenet1k_provenance.json`` says what was read, for papers and for the next run.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from rich.console import Console

from latentkit.errors import LatentkitError, UsageError
from latentkit.imagenet.contents import PARSERS, Devkit, contents_of, make_index, read_devkit
from latentkit.imagenet.reading import Block, ForeignError, TarError, read_archive
from latentkit.imagenet.recognition import ROLES, Look, looks_like, no_tar
from latentkit.runtime.progress import ProgressReport
from latentkit.sources.files import printable, stat_of
from latentkit.sources.imagenet.index import Index, IndexedArchive, read_index
from latentkit.sources.imagenet.official import OFFICIAL, Official
from latentkit.stores.storage import publish_bytes, publish_json, remove_temporaries

_T = TypeVar("_T")

_MEGABYTE = 10**6


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
        fields, path = asdict(self), self.file.path
        return {"role": self.role, "path": path, "filename": Path(path).name, **fields.pop("file"), **fields}

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
    now = datetime.now(UTC).isoformat(timespec="seconds")
    listed = [archives[role].to_json() for role in sorted(archives)]
    publish_json(provenance_path(output_dir), {"generated_at_utc": now, "archives": listed})


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
        needed = {"val": {"val", "devkit"}, "train": {"train"}}
        splits = [split for split, roles in needed.items() if roles <= self.archives.keys()]
        if not splits:
            raise UsageError(f"nothing to prepare: {'; '.join(self.lacking())}")
        return splits

    def lacking(self) -> list[str]:
        """What the missing archives keep from being done, a line each."""
        absent = {role: f"no {self.official[role].filename}" for role in ROLES if role not in self.archives}
        lines = [f"{absent[s]}: dataset.split={s} cannot be encoded" for s in ("train", "val") if s in absent]
        if "devkit" in absent and "val" in self.archives:
            lines.append(f"{absent['devkit']}: val is left out, its labels are there")
        if "devkit" in absent and "train" in self.archives:
            lines.append(f"{absent['devkit']}: the classes of train have no names in words")
        return lines

    def noted(self) -> dict[str, Archive]:
        """Role -> what an earlier run noted of the archive, where path, size and mtime are still those."""
        noted = {} if self.overwrite else read_provenance(self.output_dir)
        now = {role: (str(path), stat_of(path)) for role, path in self.archives.items()}
        return {role: old for role, old in noted.items() if now.get(role) == (old.file.path, old.file.stat)}

    def run(self) -> list[Archive]:
        """Read, judge, index and note. Each archive is noted as soon as it is read, its index before it.

        What the devkit, sizes and first bytes say of all archives is said before a large one is read.

        Raises:
            LatentkitError: an archive is damaged, or is not the official one, and says what it looks like; of
                several the last, the others are printed.
        """
        splits = self.splits
        remove_temporaries(self.output_dir, below=False)
        noted, devkit = self.noted(), None
        refusals = [refusal for split in splits if (refusal := self._refusal_unread(split))]
        if path := self.archives.get("devkit"):
            try:
                devkit = read_devkit(path)
                archive = noted.get("devkit") or self._judged("devkit", self._read(path, lambda *_: None)[0])
                noted["devkit"] = self._accepted(archive)
            except LatentkitError as error:
                refusals.append(error)
        if refusals:
            for refusal in refusals[:-1]:
                self.console.print(f"latentkit: {refusal}")
            raise refusals[-1]
        for split in splits:
            noted[split] = self._prepare(split, noted, devkit)
            publish_provenance(self.output_dir, noted)
        return [noted[role] for role in ROLES if role in noted]

    def _prepare(self, split: str, noted: Mapping[str, Archive], devkit: Devkit | None) -> Archive:
        """Index a split's archive, unless the index belongs to the archive and the devkit as they are."""
        path, before = index_path(self.output_dir, split), noted.get(split)
        labels = noted["devkit"].file.sha256 if devkit else None
        old: Index | None = None
        with contextlib.suppress(LatentkitError):  # it is absent, or damaged
            old = read_index(path)
        if old and before and old.archive == before.file:
            if old.devkit == labels:
                return self._accepted(before)
            file, contents = old.archive, contents_of(old)
        else:
            try:
                file, contents = self._read(self.archives[split], PARSERS[split])
            except TarError as error:
                raise self._refusal(split, str(error), broken=error) from None
        index = make_index(split, file, contents, devkit, labels)
        classes = {index.classes[label] for label in np.unique(index.label)}
        archive = self._judged(split, file, len(classes), len(index.label))
        if devkit is not None and classes != set(devkit.classes):
            there, ought = len(classes), len(devkit.classes)
            archive.deviations.append(f"its {there:,} classes are not the devkit's {ought:,}")
        self._accepted(archive)
        publish_bytes(path, index.content())
        return archive

    def _refusal_unread(self, split: str) -> LatentkitError | None:
        """Why a split's archive cannot be the right one, as far as can be told without reading it."""
        path, official = self.archives[split], self.official[split]
        size = path.stat().st_size
        if no_tar(path) is not None:
            return self._refusal(split, "it is no tar")
        if size != official.size and not self.allow_variant:
            return self._refusal(split, f"{size:,} bytes, not {official.size:,}")
        return None

    def _read(self, path: Path, parse: Callable[[Block, int], _T]) -> tuple[IndexedArchive, _T]:
        megabytes = path.stat().st_size // _MEGABYTE
        with ProgressReport(f"reading {printable(path.name)}", megabytes, self.console, "MB") as report:
            return read_archive(path, parse, lambda done: report.show(done // _MEGABYTE))

    def _judged(
        self, role: str, file: IndexedArchive, classes: int | None = None, pictures: int | None = None
    ) -> Archive:
        """An archive that was read, with its deviations from the official one."""
        official = self.official[role]
        there = {"bytes": file.size, "classes": classes, "pictures": pictures}
        wanted = {"bytes": official.size, "classes": official.classes, "pictures": official.pictures}
        wrong = [what for what in there if there[what] != wanted[what]]
        deviations = [f"{there[what]:,} {what}, not {wanted[what]:,}" for what in wrong]
        if file.md5 != official.md5:
            deviations.append(f"md5 {file.md5}, not {official.md5}")
        return Archive(role, file, file.md5 == official.md5, classes, pictures, deviations)

    def _accepted(self, archive: Archive) -> Archive:
        """The archive, when it is the official one or variants are allowed; else raises LatentkitError."""
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
            look = Look("an archive that was packed anew: download the official one")
        elif look.usable and (broken is not None or path.stat().st_size == official.size):
            look = Look("a damaged download: download it again", broken is None)
        hint = "; allow_variant=true goes on with it and notes this" if look.usable else ""
        return LatentkitError(f"{what}. It looks like {look.text}{hint}")
