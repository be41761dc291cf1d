"""Reads that trust nothing, and keys that are safe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentkit.sources import files
from latentkit.sources.source import SourceError, Stat


def test_bytes_and_stat_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 1_234_567_890))
    with files.opened_file(path, follow=False) as descriptor:
        assert files.read_whole(descriptor, path) == (b"12345", Stat(5, 1_234_567_890))


def test_a_file_that_grows_while_it_is_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    whole_stat = files.stat_of

    def stat_then_append(descriptor: int) -> Stat:
        before = whole_stat(descriptor)
        with path.open("ab") as file:
            file.write(b"6")
        return before

    monkeypatch.setattr(files, "stat_of", stat_then_append)
    with (
        files.opened_file(path, follow=False) as descriptor,
        pytest.raises(SourceError, match="changed while it was read"),
    ):
        files.read_whole(descriptor, path)


def test_a_fifo_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with (
        pytest.raises(SourceError, match=r"a\.jpg: not a regular file"),
        files.opened_file(tmp_path / "a.jpg", follow=True),
    ):
        pass


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    with (
        files.opened_file(path, follow=False) as descriptor,
        pytest.raises(SourceError, match="over the limit"),
    ):
        files.read_whole(descriptor, path)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("café 猫.jpg", "café 猫.jpg"),
        ("a\nb\x1b[31m.jpg", r"a\x0ab\x1b[31m.jpg"),
        (os.fsdecode(b"\xff.jpg"), r"\xff.jpg"),
    ],
)
def test_printable_names(name: str, printed: str) -> None:
    assert files.printable(name) == printed
