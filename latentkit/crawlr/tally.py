"""What a sync counted, as a table on stderr and as summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = 8
"""How many lines of a kind are printed; summary.json and quarantine.jsonl have all."""


@dataclass
class Tally:
    """A sync in numbers of the list's entries, if nothing else is said. In a dry run: what there would be.

    Attributes:
        processed: entries of the list that were read.
        present: photos that were there, known by size and mtime.
        decoded: photos that were there, and had to be decoded to be known.
        downloaded: photos that were not, or not whole.
        missing: photos with neither a URL nor a file.
        links_created, links_updated, links_unchanged: links.
        duplicates: further entries of a photo, with the same bytes.
        conflicts: further entries of a photo with other bytes, and things of others in a photo's place.
        refused: names that may not be a file's, or that another photo has on some disks.
        unknown: photos that are no JPEG, PNG, WebP or GIF; they are quarantined.
        quarantined: photos that no whole picture could be had of.
        withdrawn: photos of the ledger or of a link that a complete list no longer has.
        left: photos that were not reached, because the sync was stopped.
        failures: filename -> why it could not be downloaded.
        bad_entries: place on the list -> why the entry there cannot be read.
        complete: whether the list was read to its end.
    """

    processed: int = 0
    present: int = 0
    decoded: int = 0
    downloaded: int = 0
    missing: int = 0
    links_created: int = 0
    links_updated: int = 0
    links_unchanged: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    unknown: int = 0
    quarantined: int = 0
    withdrawn: int = 0
    left: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    bad_entries: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as summary.json holds them."""
        counts = asdict(self)
        counts["failed"] = len(self.failures)
        counts["failures"] = [{"key": name, "reason": why} for name, why in sorted(self.failures.items())]
        counts["bad_entries"] = [{"entry": place, "reason": why} for place, why in self.bad_entries.items()]
        return counts

    def print(self, console: Console, title: str, *, dry_run: bool) -> None:
        """A line and the table: always what every sync does, the rest where there is any."""
        always = {
            "processed": self.processed,
            "to download" if dry_run else "downloaded": self.downloaded,
            "failed": len(self.failures),
            "missing": self.missing,
            "unknown type": self.unknown,
            "links created": self.links_created,
            "links updated": self.links_updated,
            "links unchanged": self.links_unchanged,
        }
        sometimes = {
            "to decode" if dry_run else "decoded again": self.decoded,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "refused names": self.refused,
            "quarantined": self.quarantined,
            "no longer listed": self.withdrawn,
            "bad entries": len(self.bad_entries),
            "not reached": self.left,
        }
        table = Table()
        table.add_column("photos", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
        for name, count in (always | {name: count for name, count in sometimes.items() if count}).items():
            table.add_row(name, f"{count:,}")
        console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
        console.print(table)


def print_reasons(console: Console, title: str, reasons: Mapping[str, str]) -> None:
    """Some of the reasons, a line each; nothing when there are none."""
    if not reasons:
        return
    console.print(f"{title} ({len(reasons):,}):", highlight=False, markup=False, soft_wrap=True)
    for key, reason in list(reasons.items())[:SHOWN]:
        console.print(f"  {key}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if len(reasons) > SHOWN:
        console.print(f"  and {len(reasons) - SHOWN:,} more", highlight=False)
