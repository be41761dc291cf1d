"""How far a command is: a bar on a terminal, a plain line now and then elsewhere. On stderr."""

import time
from types import TracebackType
from typing import Self

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
    """Things per second over the run so far."""

    def __init__(self, things: str) -> None:
        super().__init__()
        self._things = things

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.completed / elapsed:,.1f} {self._things}/s" if elapsed > 0 else "")


class ProgressReport:
    """Counts things and shows how many. A context manager around one pass; one thread at a time.

    Args:
        title: what runs, e.g. ``dinov3 + flux_vae``.
        total: how many things there are; None while that is not known.
        console: where to; a terminal gets a bar, anything else plain lines.
        things: what is counted.
        every: say a plain line after so many things; None for one every `SECONDS_BETWEEN_LINES`.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        console: Console,
        things: str = "pictures",
        every: int | None = None,
    ) -> None:
        self._title = title
        self._total = total
        self._console = console
        self._things = things
        self._every = every
        self._done = self._said_at = 0
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(self._things),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task(self._title, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        seconds = self.seconds
        rate = f", {self._done / seconds:,.1f} {self._things}/s" if self._done else ""
        self._print(f"{self._title}: {self._done:,} {self._things} in {seconds:,.1f} s{rate}")

    def show(self, done: int, total: int | None = None) -> None:
        """So many are done by now; of `total`, when that is news."""
        self._done = done
        self._total = self._total if total is None else total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=self._total)
        elif self._is_time():
            self._say()

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.show(self._done + count)

    @property
    def seconds(self) -> float:
        """Since the pass began."""
        return time.monotonic() - self._began

    def _is_time(self) -> bool:
        if self._every is not None:
            return self._done - self._said_at >= self._every
        return time.monotonic() - self._said > SECONDS_BETWEEN_LINES

    def _say(self) -> None:
        self._said, self._said_at = time.monotonic(), self._done
        rate = self._done / (self._said - self._began)
        of = left = ""
        if self._total is not None:
            of = f" of {self._total:,}"
            left = f", {(self._total - self._done) / rate if rate else 0.0:,.0f} s left"
        self._print(f"{self._title}: {self._done:,}{of} {self._things}, {rate:,.1f} {self._things}/s{left}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
