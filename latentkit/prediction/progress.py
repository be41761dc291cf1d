"""How far a pass of several encoders is, in pictures, and what had to be converted on the way."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from latentkit.runtime.progress import ProgressReport


class PassProgress(ProgressReport):
    """Shows pictures: one counts once all encoders of the pass have had it.

    Args:
        title: what runs, e.g. ``dinov3 + flux_vae``.
        encodings: of the pass: pictures summed over its encoders.
        encoders: how many of them.
        console: where to.
        every: say a plain line after so many pictures; None for now and then.
    """

    def __init__(
        self, title: str, encodings: int, encoders: int, console: Console, every: int | None = None
    ) -> None:
        super().__init__(title, encodings // encoders, console, every=every)
        self._encoders = encoders
        self._encodings = 0
        self.notes: Counter[str] = Counter()

    def encoded(self, count: int) -> None:
        """`count` more pictures have been through one encoder."""
        self._encodings += count
        self.show(self._encodings // self._encoders)

    def note(self, notes: tuple[str, ...]) -> None:
        """What had to be converted in one picture."""
        self.notes.update(notes)
