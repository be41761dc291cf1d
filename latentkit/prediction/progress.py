"""How far a run is: a bar on a terminal, a plain line now and then elsewhere. On stderr."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0


class _Rate(ProgressColumn):
    """Pictures per second over the run so far."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.completed / elapsed:,.1f} pictures/s" if elapsed > 0 else "")


class ProgressReport:
    """Counts pictures and shows them. A context manager around one pass.

    Args:
        title: what runs, e.g. ``dinov3 + flux_vae``.
        total: encodings of the pass: pictures summed over its encoders.
        encoders: encoders of the pass; a picture counts once all have had it.
        console: where to; a terminal gets a bar, anything else plain lines.
    """

    def __init__(self, title: str, total: int, encoders: int, console: Console) -> None:
        self._title = title
        self._total = total
        self._encoders = encoders
        self._console = console
        self._encodings = 0
        self._began = self._said = time.monotonic()
        self.notes: Counter[str] = Counter()
        self._bar: Progress | None = None

    def __enter__(self) -> ProgressReport:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task(self._title, total=self._pictures(self._total))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        done, seconds = self._pictures(self._encodings), self.seconds
        rate = f", {done / seconds:,.1f} pictures/s" if done else ""
        self._console.print(f"{self._title}: {done:,} pictures in {seconds:,.1f} s{rate}", highlight=False)

    def encoded(self, count: int) -> None:
        """`count` more pictures have been through one encoder."""
        self._encodings += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._pictures(self._encodings))
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._say()

    @property
    def seconds(self) -> float:
        """Since the pass began."""
        return time.monotonic() - self._began

    def note(self, notes: tuple[str, ...]) -> None:
        """What had to be converted in one picture."""
        self.notes.update(notes)

    def _say(self) -> None:
        self._said = time.monotonic()
        done, total = self._pictures(self._encodings), self._pictures(self._total)
        rate = done / (self._said - self._began)
        left = (total - done) / rate if rate else 0.0
        self._console.print(
            f"{self._title}: {done:,} of {total:,} pictures, {rate:,.1f} pictures/s, {left:,.0f} s left",
            highlight=False,
        )

    def _pictures(self, encodings: int) -> int:
        return encodings // self._encoders
