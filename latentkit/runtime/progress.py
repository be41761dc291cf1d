"""How far a command is: a bar on a terminal, a plain line now and then elsewhere. On stderr."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


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
        self._title, self._total, self._things, self._every = title, total, things, every
        self._console = console
        self._done = self._said_at = 0
        self._began = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        rate = f", {self._rate()}" if self._done else ""
        self._print(f"{self._title}: {self._done:,} {self._things} in {self.seconds:,.1f} s{rate}")

    def show(self, done: int) -> None:
        """So many are done by now."""
        self._done = done
        due = time.monotonic() - self._said > SECONDS_BETWEEN_LINES
        if self._every is not None:
            due = done - self._said_at >= self._every
        if not self._bar.disable:
            self._bar.update(self._task, completed=done, rate=self._rate())
        elif due:
            self._said, self._said_at = time.monotonic(), done
            of = left = ""
            if self._total is not None:
                of = f" of {self._total:,}"
                seconds = (self._total - done) * self.seconds / done if done else 0.0
                left = f", {seconds:,.0f} s left"
            self._print(f"{self._title}: {done:,}{of} {self._things}, {self._rate()}{left}")

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.show(self._done + count)

    @property
    def seconds(self) -> float:
        """Since the pass began."""
        return time.monotonic() - self._began

    def _rate(self) -> str:
        """Over the pass so far."""
        return f"{self._done / self.seconds:,.1f} {self._things}/s"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
