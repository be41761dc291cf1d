"""Ledgers: JSON Lines files that outlive kills, and the ledger of what was encoded from what.

``.latentkit/done/<encoder>.jsonl`` is published, sorted by key: ``{"key", "sha256", "size", "mtime_ns",
"bytes", "facts"}``. While processes run, each appends to a journal of its own,
``.latentkit/journal/<encoder>.<rank>.jsonl``; folding publishes ledger and journals as the new ledger (the
later line wins) and then removes the journals. A kill between the two changes nothing: folding again gives
the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from latentkit.sources.source import Fingerprint, Stat
from latentkit.stores.publish import append, publish, remove_many

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_JOURNAL = re.compile(r"(?P<name>.+)\.(?P<rank>\d+)\.jsonl")


class Done(NamedTuple):
    """What an output was made from, and the total size of its files in bytes; compact, for many."""

    sha256: bytes
    size: int | None
    mtime_ns: int | None
    bytes: int

    @property
    def source(self) -> Fingerprint:
        return Fingerprint(self.sha256.hex(), as_stat(self.size, self.mtime_ns))


@dataclass(slots=True)
class Damage:
    """The lines of one JSON Lines file that could not be read: (number from 1, the raw line, whether cut)."""

    path: Path
    lines: list[tuple[int, bytes, bool]] = field(default_factory=list)

    def report(self, *, keep_cut: bool) -> None:
        """Log each line's number, and keep bad lines aside in ``<name>.bad``, each once.

        Args:
            keep_cut: keep a cut last line as well; else it is trimmed, because its item will be done again.
        """
        aside = self.path.with_name(f"{self.path.name}.bad")
        kept = dict.fromkeys(aside.read_bytes().split(b"\n")[:-1] if aside.exists() else [])
        before = len(kept)
        for number, raw, cut in self.lines:
            if cut and not keep_cut:
                _log.warning("%s: line %d was cut: trimmed, it will be done again", self.path, number)
                continue
            _log.warning("%s: line %d is bad: kept aside in %s", self.path, number, aside.name)
            kept[raw.strip()] = None
        if len(kept) > before:
            publish_lines(aside, kept)


def read_lines(
    path: Path, parse: Callable[[dict[str, Any]], _T], damage: Damage
) -> Iterator[tuple[_T, bytes]]:
    """Read a JSON Lines file line by line.

    Args:
        path: the file; one that is not there is empty.
        parse: makes the entry from a line's object; KeyError, TypeError or ValueError mean a bad line.
        damage: takes the lines that could not be read.

    Yields:
        The entry, and its raw line without the newline.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                value = json.loads(raw)
                if not isinstance(value, dict):
                    raise TypeError("not an object")
                entry = parse(value)
            except (KeyError, TypeError, ValueError, RecursionError):
                damage.lines.append((number, raw, not raw.endswith(b"\n")))
                continue
            yield entry, raw.rstrip(b"\r\n")


def dump(value: dict[str, Any]) -> bytes:
    """One line without its newline: ASCII, fields in the order given."""
    return json.dumps(value, separators=(", ", ": ")).encode("ascii")


def publish_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Publish lines, each with a newline after it."""

    def write(file: Any) -> None:
        for line in lines:
            file.write(line)
            file.write(b"\n")

    publish(path, write)


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines with one sync for all of them."""
    append(path, b"".join(line + b"\n" for line in lines))


def as_stat(size: int | None, mtime_ns: int | None) -> Stat | None:
    return None if size is None or mtime_ns is None else Stat(size, mtime_ns)


def source_fields(source: Fingerprint | None) -> dict[str, Any]:
    """``sha256``, ``size`` and ``mtime_ns`` as every ledger writes them; null where not known."""
    stat = None if source is None else source.stat
    return {
        "sha256": None if source is None else source.sha256,
        "size": None if stat is None else stat.size,
        "mtime_ns": None if stat is None else stat.mtime_ns,
    }


def optional_int(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError("not an integer")
    return value


def done_path(root: Path, encoder: str) -> Path:
    return root / ".latentkit" / "done" / f"{encoder}.jsonl"


def journal_path(root: Path, name: str, rank: int) -> Path:
    return root / ".latentkit" / "journal" / f"{name}.{rank}.jsonl"


def journals(root: Path, name: str) -> list[Path]:
    """The journals of a ledger that were not folded yet, by rank."""
    return _journals(root).get(name, [])


def _journals(root: Path) -> dict[str, list[Path]]:
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in (root / ".latentkit" / "journal").glob("*.jsonl"):
        if match := _JOURNAL.fullmatch(path.name):
            found.setdefault(match["name"], []).append((int(match["rank"]), path))
    return {name: [path for _, path in sorted(paths)] for name, paths in found.items()}


def done_line(key: str, source: Fingerprint, size: int, facts: dict[str, Any]) -> bytes:
    """A line of the done ledger; ``size`` is the total of the output's files in bytes."""
    return dump({"key": key, **source_fields(source), "bytes": size, "facts": facts})


def read_done(root: Path, encoder: str) -> dict[str, Done]:
    """Every key that was encoded, from ledger and journals, changing nothing."""
    done: dict[str, Done] = {}
    for path in (done_path(root, encoder), *journals(root, encoder)):
        done.update(entry for entry, _ in read_lines(path, _parse_done, Damage(path)))
    return done


def read_facts(root: Path, encoder: str, *, folded: bool = True) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(key, sha256 of what it was made from, facts) of a done ledger, sorted by key.

    Unless ``folded``, those of its journals follow, and the later of one key counts.
    """

    def parse(line: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
        return line["key"], line["sha256"], line["facts"]

    for path in (done_path(root, encoder), *(() if folded else journals(root, encoder))):
        yield from (entry for entry, _ in read_lines(path, parse, Damage(path)))


def encoders_done(root: Path) -> list[str]:
    """The encoders that have a done ledger, sorted."""
    return sorted(path.stem for path in (root / ".latentkit" / "done").glob("*.jsonl"))


def encoders_begun(root: Path) -> list[str]:
    """The encoders that have a done ledger, or a journal that was not folded yet; sorted."""
    return sorted({*encoders_done(root), *_journals(root)} - {"quarantine"})


def fold_done(root: Path) -> None:
    """Fold the journals of all encoders into their done ledgers, and repair damaged lines."""
    waiting = _journals(root)
    for encoder in encoders_begun(root):
        _fold(done_path(root, encoder), waiting.get(encoder, []))


def done_lines(root: Path, encoder: str) -> Iterator[tuple[str, bytes]]:
    """(key, raw line without its newline) of a folded done ledger."""
    path = done_path(root, encoder)
    for (key, _), raw in read_lines(path, _parse_done, Damage(path)):
        yield key, raw


def forget_done(root: Path, encoder: str, keys: Container[str]) -> list[bytes]:
    """Take keys out of a folded done ledger: they will be encoded again. Returns their lines."""
    kept: list[bytes] = []
    taken: list[bytes] = []
    for key, raw in done_lines(root, encoder):
        (taken if key in keys else kept).append(raw)
    if taken:
        publish_lines(done_path(root, encoder), kept)
    return taken


def remember_done(root: Path, encoder: str, lines: Iterable[bytes]) -> None:
    """Put lines of `forget_done` or `done_line` into the done ledger; they win over what is there."""
    append_lines(journal_path(root, encoder, 0), lines)
    _fold(done_path(root, encoder), journals(root, encoder))


def _fold(ledger: Path, waiting: list[Path]) -> None:
    lines: dict[str, bytes] = {}
    damaged = False
    for path in (ledger, *waiting):
        damage = Damage(path)
        lines.update((key, raw) for (key, _), raw in read_lines(path, _parse_done, damage))
        damage.report(keep_cut=False)
        damaged = damaged or bool(damage.lines)
    if waiting or damaged:
        publish_lines(ledger, (lines[key] for key in sorted(lines)))
        remove_many(waiting)


def _parse_done(line: dict[str, Any]) -> tuple[str, Done]:
    key, size, facts = line["key"], line["bytes"], line["facts"]
    if not isinstance(key, str) or not isinstance(size, int) or not isinstance(facts, dict):
        raise TypeError("wrong fields")
    digest = bytes.fromhex(line["sha256"])
    return key, Done(digest, optional_int(line["size"]), optional_int(line["mtime_ns"]), size)
