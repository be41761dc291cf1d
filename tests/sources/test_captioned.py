"""Captions that a model wrote stand in where a picture has none, and nowhere else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

from PIL import Image

from latentkit.sources import ApprovedSource, Captioned, First, FolderSource


def line(key: str, caption: str, **fields: object) -> str:
    values = {
        "key": key,
        "caption": caption,
        "model": "m",
        "prompt_sha256": "p" * 64,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "size": 5,
        "mtime_ns": 6,
        "time": "2025-01-01T00:00:00Z",
    }
    return json.dumps(values | fields) + "\n"


def folder(tmp_path: Path, *names: str) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(root / f"{name}.png")
    return root


def captions(source: Captioned) -> dict[str, str | None]:
    return {source[index].key: source[index].caption for index in range(len(source))}


def test_the_picture_s_own_caption_wins_and_the_last_line_counts(tmp_path: Path) -> None:
    root = folder(tmp_path, "a", "b", "c", "d")
    (root / "b.txt").write_text("b's own")
    path = tmp_path / "captions.jsonl"
    lines = [line("a", "first"), line("b", "written"), line("a", "second"), line("gone", "x"), "{\n", "[]\n"]
    path.write_text("".join(lines) + line("d", "")[:40])
    source = Captioned(FolderSource(root=str(root)), path)
    assert captions(source) == {"a": "second", "b": "b's own", "c": None, "d": None}
    assert captions(pickle.loads(pickle.dumps(First(source, 2)))) == {"a": "second", "b": "b's own"}
    (root / "a.txt").write_text("a's own, at last")
    assert captions(source)["a"] == "a's own, at last"


def test_all_else_is_the_source_s(tmp_path: Path) -> None:
    inner = FolderSource(root=str(nested(tmp_path)))
    source = Captioned(inner, tmp_path / "none.jsonl")
    assert (source.orient, source.strict, source.classes, source.ignored) == (True, True, ("x", "y"), 1)
    assert list(source.keys()) == ["x/a", "y/b"]
    assert [source[i] for i in range(2)] == [inner[i] for i in range(2)]
    assert source.read(1) == inner.read(1)
    assert source.stat(1) == inner.stat(1)
    assert len(source.captions) == 0


def nested(tmp_path: Path) -> Path:
    for name in ("x/a", "y/b"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / f"{name}.png")
    (tmp_path / "set" / "x" / "notes.pdf").write_bytes(b"")
    return tmp_path / "set"


def test_a_record_that_repeats_a_written_caption_is_not_the_picture_s_own(tmp_path: Path) -> None:
    """Encoding copies captions into the records, where the photo library looks for its own."""
    approved = folder(tmp_path, "a", "b")
    records = tmp_path / "records.jsonl"
    entries = [{"image_id": "a", "caption": "old words"}, {"image_id": "b", "caption": "by hand"}]
    records.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (tmp_path / "photos.jsonl").write_text(json.dumps({"filename": "a", "metadata": {"title": "T"}}) + "\n")
    path = tmp_path / "captions.jsonl"
    path.write_text(line("a", "old words") + line("a", "new words") + line("b", "machine"))
    library = ApprovedSource(
        root=str(approved),
        raw=str(tmp_path / "raw"),
        records=str(records),
        photos=str(tmp_path / "photos.jsonl"),
    )
    source = Captioned(library, path)
    assert captions(source) == {"a": "new words", "b": "by hand"}
    photos = [{"filename": key, "metadata": {"description": f"{key} in the list"}} for key in "ab"]
    (tmp_path / "photos.jsonl").write_text("".join(json.dumps(photo) + "\n" for photo in photos))
    listed = Captioned(dataclasses.replace(library), path)
    assert captions(listed) == {"a": "a in the list", "b": "by hand"}
    assert captions(First(listed, 1)) == {"a": "a in the list"}
    assert list(First(listed, 1).caption_choices(0)) == [("list", "a in the list"), ("model", "new words")]
    assert source.captions.own("a", "old words") is None
    assert source.captions.own("a", "new words") is None
    assert source.captions.own("a", "other words") == "other words"
    assert source.metadata(0) == {"metadata": {"title": "T"}}
