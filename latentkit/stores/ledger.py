"""Ledgers: JSON Lines files that outlive kills, and the ledger of what was encoded from what.

``.latentkit/done/<encoder>.jsonl`` is published, sorted by key: ``{"key", "sha256", "size", "mtime_ns",
"bytes", "facts"}``. While processes run, each publishes journal segments,
``.latentkit/journal/<encoder>.<start>-<host>-<pid>-<random>-<number>.jsonl``, and never changes one. Folding
publishes ledger and segments as the new ledger (the later line wins), then removes the segments that it read,
and no other. A kill between the two changes nothing: folding again gives the same. Journals of the version
before, ``<encoder>.<rank>.jsonl``, are folded first.
"""

import functools
import itertools
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Generic, NamedTuple, TypeVar

from latentkit.sources.source import Fingerprint, Stat
from latentkit.stores.storage import Publication, append, publish, publish_many, remove_many

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_JOURNAL = re.compile(r"(?P<name>.+)\.(?P<start>\d+)(?P<rest>(-\w+)*)\.jsonl")
_number = itertools.count()


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
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
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
    publish(path, lambda file: file.writelines(line + b"\n" for line in lines))


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines with one sync for all of them."""
    append(path, b"".join(line + b"\n" for line in lines))


def as_stat(size: int | None, mtime_ns: int | None) -> Stat | None:
    return None if size is None or mtime_ns is None else Stat(size, mtime_ns)


def source_fields(source: Fingerprint | None) -> dict[str, Any]:
    """``sha256``, ``size`` and ``mtime_ns`` as every ledger writes them; null where not known."""
    sha256, stat = (source.sha256, source.stat) if source else (None, None)
    size, mtime_ns = (stat.size, stat.mtime_ns) if stat else (None, None)
    return {"sha256": sha256, "size": size, "mtime_ns": mtime_ns}


def read_source(line: dict[str, Any]) -> Fingerprint | None:
    """What `source_fields` wrote. Raises KeyError or TypeError where the line has no such fields."""
    sha256, size, mtime_ns = line["sha256"], line["size"], line["mtime_ns"]
    if type(sha256) not in (str, NoneType) or {type(size), type(mtime_ns)} - {int, NoneType}:
        raise TypeError("wrong fields")
    return None if sha256 is None else Fingerprint(sha256, as_stat(size, mtime_ns))


def _journals(root: Path) -> dict[str, list[Path]]:
    """Ledger's name -> its segments that were not folded yet, in the order in which they count."""
    found: dict[str, list[tuple[int, str, Path]]] = {}
    for path in (root / ".latentkit" / "journal").glob("*.jsonl"):
        if match := _JOURNAL.fullmatch(path.name):
            found.setdefault(match["name"], []).append((int(match["start"]), match["rest"], path))
    return {name: [path for *_, path in sorted(paths)] for name, paths in found.items()}


@functools.cache
def _writer(pid: int) -> str:
    """This process among all that ever write: when it began, where, its number there, and chance."""
    host = re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII)
    return f"{time.time_ns():020d}-{host}-{pid}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Ledger(Generic[_T]):
    """A JSON Lines file, and the segments that fold into it.

    Attributes:
        root: the output's.
        name: of its segments.
        path: the published file.
        parse: makes an entry from a line's object, as for `read_lines`; its first item is the key.
        merge: entries and their lines, in the order in which they count, to the lines that are published.
        keep_empty: whether the file stays when it has no line.
    """

    root: Path
    name: str
    path: Path
    parse: Callable[[dict[str, Any]], _T]
    merge: Callable[[Iterable[tuple[_T, bytes]]], Iterable[bytes]]
    keep_empty: bool = True

    def read(self, damages: list[Damage] | None = None) -> Iterator[tuple[_T, bytes]]:
        """Entries and lines of the file and the segments, changing nothing."""
        for path in (self.path, *self.segments()):
            damage = Damage(path)
            if damages is not None:
                damages.append(damage)
            yield from read_lines(path, self.parse, damage)

    def segments(self) -> list[Path]:
        """Those that were not folded yet."""
        return _journals(self.root).get(self.name, [])

    def segment(self, lines: Iterable[bytes]) -> Publication:
        """How to publish a new segment."""
        content = b"".join(line + b"\n" for line in lines)
        name = f"{self.name}.{_writer(os.getpid())}-{next(_number):08d}.jsonl"
        path = self.root / ".latentkit" / "journal" / name
        return Publication(path, lambda file: file.write(content))

    def add(self, lines: Iterable[bytes]) -> None:
        """Publish a segment; what it says is on the disk when this returns."""
        publish_many([self.segment(lines)])

    def fold(self) -> None:
        """Publish file and segments as one, and repair damaged lines. For the holder of the output's lock."""
        segments, damages = self.segments(), list[Damage]()
        entries = list(self.read(damages))
        for damage in damages:
            damage.report(keep_cut=False)
        if segments or any(damage.lines for damage in damages):
            self._publish(self.merge(entries))
            remove_many(segments)

    def lines(self) -> Iterator[tuple[int, str, bytes]]:
        """(0, key, line without its newline) of the folded file: their order follows from the keys."""
        for entry, raw in read_lines(self.path, self.parse, Damage(self.path)):
            yield 0, entry[0], raw  # type: ignore[index]

    def forget(self, keys: Container[str]) -> None:
        """Take keys out of the folded file."""
        lines = list(self.lines())
        kept = [raw for _, key, raw in lines if key not in keys]
        if len(kept) < len(lines):
            self._publish(kept)

    def remember(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Put (number, line) into the file; they win over what is there, and their numbers mean nothing."""
        self.add(line for _, line in lines)
        self.fold()

    def _publish(self, lines: Iterable[bytes]) -> None:
        lines = list(lines)
        if lines or self.keep_empty:
            publish_lines(self.path, lines)
        else:
            remove_many([self.path])


def done_ledger(root: Path, encoder: str) -> Ledger[tuple[str, Done]]:
    """What was encoded from what."""

    def merge(entries: Iterable[tuple[tuple[str, Done], bytes]]) -> Iterable[bytes]:
        return dict(sorted({key: raw for (key, _), raw in entries}.items())).values()

    return Ledger(root, encoder, root / ".latentkit" / "done" / f"{encoder}.jsonl", _parse_done, merge)


def done_line(key: str, source: Fingerprint, size: int, facts: dict[str, Any]) -> bytes:
    """A line of the done ledger; ``size`` is the total of the output's files in bytes."""
    return dump({"key": key, **source_fields(source), "bytes": size, "facts": facts})


def read_done(root: Path, encoder: str) -> dict[str, Done]:
    """Every key that was encoded, from ledger and journal, changing nothing."""
    return dict(entry for entry, _ in done_ledger(root, encoder).read())


def read_facts(root: Path, encoder: str, *, folded: bool = True) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(key, sha256 of what it was made from, facts) of a done ledger, sorted by key.

    Unless ``folded``, those of its journal follow, and the later of one key counts.
    """

    def parse(line: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
        return line["key"], line["sha256"], line["facts"]

    ledger = done_ledger(root, encoder)
    for path in (ledger.path, *(() if folded else ledger.segments())):
        yield from (entry for entry, _ in read_lines(path, parse, Damage(path)))


def encoders_done(root: Path) -> list[str]:
    """The encoders that have a done ledger, sorted."""
    return sorted(path.stem for path in (root / ".latentkit" / "done").glob("*.jsonl"))


def encoders_begun(root: Path) -> list[str]:
    """The encoders that have a done ledger, or a journal that was not folded yet; sorted."""
    return sorted({*encoders_done(root), *_journals(root)} - {"quarantine"})


def fold_done(root: Path) -> None:
    """Fold the journals of all encoders into their done ledgers, and repair damaged lines."""
    for encoder in encoders_begun(root):
        done_ledger(root, encoder).fold()


def _parse_done(line: dict[str, Any]) -> tuple[str, Done]:
    key, size, facts, source = line["key"], line["bytes"], line["facts"], read_source(line)
    if not isinstance(key, str) or not isinstance(size, int) or not isinstance(facts, dict) or not source:
        raise TypeError("wrong fields")
    return key, Done(bytes.fromhex(source.sha256), line["size"], line["mtime_ns"], size)
