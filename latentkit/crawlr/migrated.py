"""What a migration did, in figures and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from latentkit.crawlr.stage1 import CONTRACTS
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED
from latentkit.runtime.readable import readable_count

_SHOWN = 20


@dataclass
class Migrated:
    """What a migration did, or would do.

    Attributes:
        records: ids in the records file.
        moved: embeddings that left their record.
        dropped: ids of those that cannot be used, where the encoder's own is there; the backup keeps them.
        entered: encoder -> arrays that were there already, and are in the ledger now.
        left: line number -> why its record stays at Stage 1.
        unfit: array -> why it does not enter the ledger.
        bad_lines: lines that are no record, kept aside in ``<records>.bad``.
        repeated: lines whose id comes again further down: the last counts.
        backup: the old records; None when they did not change.
        unrecorded: encoder -> folder, where nobody recorded what made the arrays.
        interrupted: whether it was stopped; then the records did not change.
    """

    records: int = 0
    moved: int = 0
    dropped: set[str] = field(default_factory=set)
    entered: Counter[str] = field(default_factory=Counter)
    left: dict[int, str] = field(default_factory=dict)
    unfit: dict[Path, str] = field(default_factory=dict)
    bad_lines: int = 0
    repeated: int = 0
    backup: Path | None = None
    unrecorded: dict[str, Path] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def status(self) -> int:
        """The exit status: `QUARANTINED` when a record, a line or an array was left out."""
        if self.interrupted:
            return INTERRUPTED
        return QUARANTINED if self.left or self.unfit or self.bad_lines else DONE

    def say(self, console: Console, *, dry_run: bool) -> None:
        """Print it, and what to do next."""
        lines = ["interrupted: the records are as they were; the same command goes on"]
        if not self.interrupted:
            lines = [*self._figures(), *self._left_out()]
            lines += ["dry_run=true: nothing was touched"] if dry_run else self._next()
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _figures(self) -> list[str]:
        records, moved = (
            readable_count(self.records, "record"),
            readable_count(self.moved, "inline embedding"),
        )
        lines = [f"{records}: {moved} to files, {len(self.left):,} left"]
        if self.dropped:
            lines.append(
                f"{len(self.dropped):,} of them cannot be used: dropped, the encoder's own are there; "
                "the old records keep them"
            )
        if self.entered:
            counts = ", ".join(f"{count:,} of {name}" for name, count in sorted(self.entered.items()))
            lines.append(f"arrays that were there: {counts}")
        if self.bad_lines:
            lines.append(f"{readable_count(self.bad_lines, 'bad line')}, kept aside in .bad")
        if self.repeated:
            lines.append(
                f"{readable_count(self.repeated, 'line')} of an id that comes again: the last counts"
            )
        return lines

    def _left_out(self) -> list[str]:
        left = {f"line {number}": reason for number, reason in sorted(self.left.items())}
        lines = _first("stays at Stage 1", left)
        lines += ["  for these: encode encoder=dinov3, then migrate again"] * bool(left)
        return [*lines, *_first("left out", self.unfit)]

    def _next(self) -> list[str]:
        lines = [f"the old records: {self.backup}" if self.backup else "the records did not change"]
        if self.unrecorded:
            folders = ", ".join(map(str, self.unrecorded.values()))
            lines.append(f"nobody recorded what made the arrays in {folders}. When you encode next,")
            if others := ",".join(name for name in CONTRACTS if name not in self.unrecorded):
                lines.append(f'  "encoder=[{others}]" leaves them as they are')
            lines.append("  adopt=true takes them for what the encoders would make")
            lines.append("  overwrite=true encodes them again")
        return lines


def _first(what: str, reasons: Mapping[str, str] | Mapping[Path, str]) -> list[str]:
    lines = [f"{what}: {place}: {reason}" for place, reason in list(reasons.items())[:_SHOWN]]
    more = len(reasons) - len(lines)
    return lines + [f"{what}: {more:,} more"] * (more > 0)
