"""The quarantine ledger: pictures that could not be encoded, why, and when.

``<root>/quarantine.jsonl``, sorted by key: ``{"key", "stage", "reason", "time", "encoders", "sha256",
"size", "mtime_ns"}``; ``time`` is UTC. Its journal holds such lines, and ``{"released": key, "encoders":
[...]}`` just before a picture's output counts as done.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from latentkit.prediction.results import Failure
from latentkit.runtime.provenance import utc_now
from latentkit.sources.source import Fingerprint
from latentkit.stores.ledger import Ledger, dump, read_source, source_fields


class Held(NamedTuple):
    """Why a picture is held back from an encoder.

    Attributes:
        stage, reason, time: as in the ledger; time is UTC, ISO 8601.
        source: the bytes that failed; None when they could not be read.
    """

    stage: str
    reason: str
    time: str
    source: Fingerprint | None


_Entry = tuple[str, list[str], Held | None]
"""Key, encoders, and why they go without it; None: they no longer do."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What is held back, by encoder and key."""

    entries: Mapping[str, Mapping[str, Held]]

    @classmethod
    def read(cls, root: str | Path) -> Self:
        """Ledger and journal as they are, changing nothing; an output that is not there has none."""
        return cls(_merged(quarantine_ledger(Path(root)).read()))

    def held(self, encoder: str) -> Mapping[str, Held]:
        """Key -> why, for one encoder."""
        return self.entries.get(encoder, {})

    def keys(self) -> set[str]:
        """Every key that some encoder goes without."""
        return {key for entries in self.entries.values() for key in entries}


def quarantine(root: Path, failure: Failure) -> None:
    """Write a failure down, now; it is on the disk when this returns."""
    held = Held(failure.stage, failure.reason, utc_now(), failure.source)
    quarantine_ledger(root).add([_line(failure.key, held, sorted(failure.encoders))])


def release(root: Path, encoder: str, keys: Iterable[str]) -> None:
    """Write down that an encoder no longer goes without these pictures."""
    if lines := [dump({"released": key, "encoders": [encoder]}) for key in keys]:
        quarantine_ledger(root).add(lines)


def quarantine_ledger(root: Path) -> Ledger[_Entry]:
    """The ledger; entries of one picture that say the same become one line."""
    return Ledger(root, "quarantine", root / "quarantine.jsonl", _parse, _lines, keep_empty=False)


def _merged(entries: Iterable[tuple[_Entry, bytes]]) -> dict[str, dict[str, Held]]:
    """Encoder -> key -> why."""
    merged: dict[str, dict[str, Held]] = {}
    for (key, encoders, held), _ in entries:
        for encoder in encoders:
            if held is None:
                merged.get(encoder, {}).pop(key, None)
            else:
                merged.setdefault(encoder, {})[key] = held
    return merged


def _lines(entries: Iterable[tuple[_Entry, bytes]]) -> Iterator[bytes]:
    grouped: dict[tuple[str, ...], tuple[Held, list[str]]] = {}
    for encoder, of_encoder in sorted(_merged(entries).items()):
        for key, held in of_encoder.items():
            name = (key, held.stage, held.reason, str(held.source or ""))
            latest, encoders = grouped.get(name, (held, []))
            grouped[name] = (max(latest, held, key=lambda each: each.time), [*encoders, encoder])
    for (key, *_), (held, encoders) in sorted(grouped.items()):
        yield _line(key, held, encoders)


def _line(key: str, held: Held, encoders: list[str]) -> bytes:
    line = {"key": key, "stage": held.stage, "reason": held.reason, "time": held.time}
    return dump(line | {"encoders": encoders} | source_fields(held.source))


def _parse(line: dict[str, Any]) -> _Entry:
    encoders = line["encoders"]
    texts = [*encoders, line["released"]] if "released" in line else [*encoders, line["key"]]
    held = None
    if "released" not in line:
        held = Held(line["stage"], line["reason"], line["time"], read_source(line))
        texts += held[:3]
    if not isinstance(encoders, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError("wrong fields")
    return texts[len(encoders)], encoders, held
