"""The pass of a captioner over pictures. Every caption is on the disk as soon as it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from latentkit.captioning import Answer, Captioner
from latentkit.pixels import DecodeError, Pillow
from latentkit.prediction.results import Failure
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.sources import Captions, Fingerprint, Source, SourceError, Written
from latentkit.stores.captions import append_caption
from latentkit.stores.quarantine import release

if TYPE_CHECKING:
    from PIL.Image import Image

CAPTIONING = "caption"
"""What the quarantine ledger calls captioning among the encoders."""


@dataclass(frozen=True)
class CaptionResult:
    """Pictures captioned, pictures that failed, and whether the run was asked to stop before its end."""

    written: int
    failed: int
    interrupted: bool


class CaptionRun:
    """One pass over pictures that are to be captioned.

    Args:
        captioner: writes the captions.
        source: the pictures.
        captions: takes in what is written.
        root: the output folder, whose lock is held.
        held: keys in the quarantine ledger.
        fail: takes each failure down; raises when there are too many.
    """

    def __init__(
        self,
        captioner: Captioner,
        source: Source,
        captions: Captions,
        root: Path,
        held: Container[str],
        fail: Callable[[Failure], None],
    ) -> None:
        self._captioner = captioner
        self._source = source
        self._captions = captions
        self._root = root
        self._held = held
        self._note_failure = fail
        self._asked: dict[int, Fingerprint] = {}
        self._stopped = False
        self._written = self._failed = 0

    def write(self, todo: Sequence[int], console: Console) -> CaptionResult:
        """Caption the pictures with these source indices; each caption is on the disk at once."""
        title = f"captions by {self._captioner.name}"
        with (
            self._captioner.open() as describe,
            Interrupts(self._stop),
            ProgressReport(title, len(todo), console) as progress,
        ):
            for answer in describe(self._pictures(todo)):
                self._take(answer)
                progress.show(self._written + self._failed)
        return CaptionResult(self._written, self._failed, self._stopped)

    def _stop(self) -> None:
        self._stopped = True

    def _pictures(self, todo: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """(source index, decoded picture) of those that can be had, until the run is to stop."""
        source = self._source
        for index in todo:
            if self._stopped:
                return
            fingerprint = None
            try:
                data, stat = source.read(index)
                fingerprint = Fingerprint(hashlib.sha256(data).hexdigest(), stat)
                image = Pillow(source.orient, source.strict)(data).image
            except SourceError as error:
                self._fail(index, "read", str(error), fingerprint)
            except (DecodeError, MemoryError) as error:
                self._fail(index, "decode", str(error) or type(error).__name__, fingerprint)
            else:
                self._asked[index] = fingerprint
                yield index, image

    def _take(self, answer: Answer) -> None:
        fingerprint = self._asked.pop(answer.number)
        if answer.reason:
            self._fail(answer.number, "caption", answer.reason, fingerprint)
            return
        key = self._source[answer.number].key
        written = Written(answer.caption, self._captioner.name, self._captioner.prompt_sha256, fingerprint)
        if key in self._held:
            release(self._root, CAPTIONING, [key])
        append_caption(self._captions.path, key, written)
        self._captions.add(key, written)
        self._written += 1

    def _fail(self, index: int, stage: str, reason: str, fingerprint: Fingerprint | None) -> None:
        self._failed += 1
        key = self._source[index].key
        self._note_failure(Failure(index, key, stage, reason, (CAPTIONING,), fingerprint))
