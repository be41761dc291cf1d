"""What a sync counted, as a table on stderr and as summary.json."""

from collections import Counter
from typing import Any

from rich.console import Console

from latentkit.runtime.terminal import print_table

_LINKS = ("links_created", "links_updated", "links_unchanged")
_ALWAYS = ("processed", "downloaded", "failed", "missing", "unknown", *_LINKS)
_MORE = ("decoded", "duplicates", "conflicts", "refused", "quarantined", "withdrawn", "bad_entries", "left")
_WORDS = {
    "unknown": "unknown type",
    "decoded": "decoded again",
    "refused": "refused names",
    "withdrawn": "no longer listed",
    "left": "not reached",
}
_DRY = {"downloaded": "to download", "decoded": "to decode"}


class Tally(Counter[str]):
    """A sync in numbers of the list's entries, if nothing else is said. In a dry run: what there would be.

    ====================  ===========================================================================
    processed             entries of the list that were read
    present               photos that were there, known by size and mtime
    decoded               photos that were there, and had to be decoded to be known
    downloaded            photos that were not, or not whole
    missing               photos with neither a URL nor a file
    links_created ...     links; also ``_updated`` and ``_unchanged``
    duplicates            further entries of a photo, with the same bytes
    conflicts             further entries with other bytes, and things of others in a photo's place
    refused               names that may not be a file's, or that another photo has on some disks
    unknown               photos that are no JPEG, PNG, WebP or GIF; they are quarantined
    quarantined           photos without a whole picture
    withdrawn             photos of the ledger or of a link that a complete list no longer has
    left                  photos that were not reached, because the sync was stopped
    ====================  ===========================================================================

    Attributes:
        failures: filename -> why it could not be downloaded.
        bad_entries: place on the list -> why the entry there cannot be read.
        complete: whether the list was read to its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, str] = {}
        self.bad_entries: dict[str, str] = {}
        self.complete = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as summary.json holds them."""
        counts = {name: self[name] for name in ("present", *_ALWAYS, *_MORE)}
        return counts | {
            "failed": len(self.failures),
            "failures": [{"key": name, "reason": why} for name, why in sorted(self.failures.items())],
            "bad_entries": [{"entry": place, "reason": why} for place, why in self.bad_entries.items()],
            "complete": self.complete,
        }

    def print(self, console: Console, title: str, *, dry_run: bool) -> None:
        """A line and the table: always what every sync does, the rest where there is any."""
        counts = {**self, "failed": len(self.failures), "bad_entries": len(self.bad_entries)}
        words = _WORDS | (_DRY if dry_run else {})
        rows = [
            (words.get(name, name.replace("_", " ")), f"{counts.get(name, 0):,}")
            for name in (*_ALWAYS, *_MORE)
            if name in _ALWAYS or counts.get(name)
        ]
        print_table(console, title, ["photos", ""], rows)
