"""Journals: immutable segments of many writers, folded into one ledger."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from latentkit.sources.source import Fingerprint
from latentkit.stores.ledger import Ledger, done_ledger, done_line, fold_done, read_done


def line(key: str, size: int = 1) -> bytes:
    return done_line(key, Fingerprint("00" * 32), size, {})


def test_every_writer_has_segments_of_its_own_that_never_change(tmp_path: Path) -> None:
    ledger = done_ledger(tmp_path, "vae")
    ledger.add([line("a")])
    first = ledger.segments()[0].read_bytes()
    if (child := os.fork()) == 0:
        ledger.add([line("b")])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ledger.add([line("c"), line("a", 2)])
    names = [path.name for path in ledger.segments()]
    assert len({*names}) == 3
    assert sum(f"-{child}-" in name for name in names) == 1
    assert sum(f"-{os.getpid()}-" in name for name in names) == 2
    assert ledger.segments()[0].read_bytes() == first
    assert {key: done.bytes for key, done in read_done(tmp_path, "vae").items()} == {"a": 2, "b": 1, "c": 1}


def test_folding_removes_only_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host goes on writing while one folds."""
    ledger = done_ledger(tmp_path, "vae")
    ledger.add([line("a")])
    read = Ledger.read

    def read_while_another_writes(self: Ledger, *arguments: object) -> object:
        yield from read(self, *arguments)  # type: ignore[arg-type]
        self.add([line("b")])

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "read", read_while_another_writes)
        ledger.fold()
    assert [key for _, key, _ in ledger.lines()] == ["a"]
    assert len(ledger.segments()) == 1
    assert read_done(tmp_path, "vae").keys() == {"a", "b"}
    ledger.fold()
    assert [key for _, key, _ in ledger.lines()] == ["a", "b"]
    assert ledger.segments() == []


def test_journals_of_the_version_before_are_folded_first(tmp_path: Path) -> None:
    journal = tmp_path / ".latentkit" / "journal"
    journal.mkdir(parents=True)
    done_ledger(tmp_path, "vae").add([line("b", 3)])
    (journal / "vae.0.jsonl").write_bytes(line("a") + b"\n" + line("b") + b"\n")
    (journal / "vae.10.jsonl").write_bytes(line("c", 2) + b"\n" + line("d")[:9])
    (journal / "vae.9.jsonl").write_bytes(line("c", 1) + b"\n")
    assert {key: done.bytes for key, done in read_done(tmp_path, "vae").items()} == {"a": 1, "b": 3, "c": 2}
    fold_done(tmp_path)
    lines = (tmp_path / ".latentkit" / "done" / "vae.jsonl").read_text().splitlines()
    assert [(entry["key"], entry["bytes"]) for entry in map(json.loads, lines)] == [
        ("a", 1),
        ("b", 3),
        ("c", 2),
    ]
    assert list(journal.iterdir()) == []
