"""The quarantine ledger: pictures that could not be encoded, why, and when.

``<root>/quarantine.jsonl``, sorted by key: ``{"key", "stage", "reason", "time", "encoders", "sha256",
"size", "mtime_ns"}``; ``time`` is UTC. Processes append to ``.latentkit/journal/quarantine.<rank>.jsonl``:
such lines, and ``{"released": key, "encoders": [...]}`` just before a picture's output counts as done.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from latentkit.prediction.results import Failure
from latentkit.runtime.provenance import utc_now
from latentkit.sources.source import Fingerprint, Stat
from latentkit.stores.ledger import (
    Damage,
    append_lines,
    as_stat,
    dump,
    journal_path,
    journals,
    optional_int,
    publish_lines,
    read_lines,
    source_fields,
)
from latentkit.stores.publish import remove_many


class Held(NamedTuple):
    """Why a picture is held back from an encoder.

    Attributes:
        stage, reason, time: as in the ledger; time is UTC, ISO 8601.
        sha256, stat: the bytes that failed; None when they could not be read.
    """

    stage: str
    reason: str
    time: str
    sha256: str | None
    stat: Stat | None

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The bytes that failed; None when they could not be read."""
        return None if self.sha256 is None else Fingerprint(self.sha256, self.stat)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What is held back, by encoder and key."""

    entries: Mapping[str, Mapping[str, Held]]

    @classmethod
    def read(cls, root: str | Path) -> Quarantine:
        """Ledger and journals as they are, changing nothing; an output that is not there has none."""
        return cls(_read(Path(root))[0])

    def held(self, encoder: str) -> Mapping[str, Held]:
        """Key -> why, for one encoder."""
        return self.entries.get(encoder, {})

    def keys(self) -> set[str]:
        """Every key that some encoder goes without."""
        return {key for entries in self.entries.values() for key in entries}


def quarantine(root: Path, rank: int, failure: Failure) -> None:
    """Write a failure down, now; it is on the disk when this returns."""
    line = {
        "key": failure.key,
        "stage": failure.stage,
        "reason": failure.reason,
        "time": utc_now(),
        "encoders": sorted(failure.encoders),
        **source_fields(failure.source),
    }
    append_lines(journal_path(root, "quarantine", rank), [dump(line)])


def release(root: Path, rank: int, encoder: str, keys: Iterable[str]) -> None:
    """Write down that an encoder no longer goes without these pictures."""
    lines = [dump({"released": key, "encoders": [encoder]}) for key in keys]
    if lines:
        append_lines(journal_path(root, "quarantine", rank), lines)


def fold_quarantine(root: Path) -> None:
    """Publish ledger and journals as the new ledger, then remove the journals. Safe to repeat after a kill.

    Entries of one picture that say the same become one line; a ledger with no entry is removed.
    """
    entries, damages = _read(root)
    waiting = journals(root, "quarantine")
    for damage in damages:
        damage.report(keep_cut=False)
    if not waiting and not any(damage.lines for damage in damages):
        return
    ledger = root / "quarantine.jsonl"
    if lines := _lines(entries):
        publish_lines(ledger, lines)
    else:
        remove_many([ledger])
    remove_many(waiting)


def bad_lines(root: Path) -> list[int]:
    """Numbers of the ledger's lines that are no entries; changes nothing."""
    return [number for damage in _read(root)[1] for number, _, _ in damage.lines]


def quarantine_lines(root: Path) -> Iterator[tuple[str, bytes]]:
    """(key, raw line without its newline) of the folded ledger."""
    path = root / "quarantine.jsonl"
    for (key, _, _), raw in read_lines(path, _parse, Damage(path)):
        yield key, raw


def forget_quarantined(root: Path, keys: Container[str]) -> None:
    """Take pictures out of the folded ledger; one with no entry left is removed."""
    kept: list[bytes] = []
    taken = False
    for key, raw in quarantine_lines(root):
        if key in keys:
            taken = True
        else:
            kept.append(raw)
    if taken and kept:
        publish_lines(root / "quarantine.jsonl", kept)
    elif taken:
        remove_many([root / "quarantine.jsonl"])


def remember_quarantined(root: Path, lines: Iterable[bytes]) -> None:
    """Put lines of `quarantine_lines` into the ledger; they win over what is there."""
    append_lines(journal_path(root, "quarantine", 0), lines)
    fold_quarantine(root)


def _lines(entries: Mapping[str, Mapping[str, Held]]) -> list[bytes]:
    grouped: dict[tuple[Any, ...], tuple[str, list[str]]] = {}
    for encoder in sorted(entries):
        for key, held in entries[encoder].items():
            size, mtime_ns = (held.stat.size, held.stat.mtime_ns) if held.stat else (None, None)
            name = (key, held.stage, held.reason, held.sha256, size, mtime_ns)
            time, encoders = grouped.setdefault(name, (held.time, []))
            encoders.append(encoder)
            grouped[name] = (max(time, held.time), encoders)
    return [
        dump(
            {
                "key": key,
                "stage": stage,
                "reason": reason,
                "time": time,
                "encoders": encoders,
                "sha256": sha256,
                "size": size,
                "mtime_ns": mtime_ns,
            }
        )
        for (key, stage, reason, sha256, size, mtime_ns), (time, encoders) in sorted(
            grouped.items(), key=lambda pair: (*pair[0][:3], pair[0][3] or "")
        )
    ]


def _read(root: Path) -> tuple[dict[str, dict[str, Held]], list[Damage]]:
    entries: dict[str, dict[str, Held]] = {}
    damages: list[Damage] = []
    for path in (root / "quarantine.jsonl", *journals(root, "quarantine")):
        damages.append(Damage(path))
        for (key, encoders, held), _ in read_lines(path, _parse, damages[-1]):
            for encoder in encoders:
                if held is None:
                    entries.get(encoder, {}).pop(key, None)
                else:
                    entries.setdefault(encoder, {})[key] = held
    return entries, damages


def _parse(line: dict[str, Any]) -> tuple[str, list[str], Held | None]:
    encoders = line["encoders"]
    texts = [*encoders, line["released"]] if "released" in line else [*encoders, line["key"]]
    held = None
    if "released" not in line:
        stat = as_stat(optional_int(line["size"]), optional_int(line["mtime_ns"]))
        held = Held(line["stage"], line["reason"], line["time"], line["sha256"], stat)
        texts += [*held[:3], held.sha256 or ""]
    if not isinstance(encoders, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError("wrong fields")
    return texts[len(encoders)], encoders, held
