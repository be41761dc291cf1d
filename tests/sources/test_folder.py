"""A folder of pictures as users bring it."""

from __future__ import annotations

import logging
import os
import pickle
import time
from pathlib import Path

import pytest

from latentkit.errors import UsageError
from latentkit.sources import First, FolderSource, Item, SourceError, Stat


def fill(root: Path, *names: str) -> Path:
    """Files whose bytes are their own names; text after a colon is their content instead."""
    for name in names:
        path, _, content = name.partition(":")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((content or path).encode())
    return root


def items(source: FolderSource) -> list[Item]:
    return [source[index] for index in range(len(source))]


def test_pictures_in_the_order_of_their_keys(tmp_path: Path) -> None:
    fill(tmp_path, "b.JPG", "a.webp", "sub/deep/c.Jpeg", "sub.d.png", "e.gif")
    fill(tmp_path, "notes.pdf", "sub/list.csv", "a.txt:A cat.", ".hidden.jpg", ".git/x.jpg", "jpg")
    source = FolderSource(root=str(tmp_path))
    assert [item.key for item in items(source)] == ["a", "b", "e", "sub.d", "sub/deep/c"]
    assert source.ignored == 3
    assert source.classes == ()
    assert source[0] == Item("a", f"{tmp_path}/a.webp", "A cat.", None)
    data, stat = source.read(4)
    assert data == b"sub/deep/c.Jpeg"
    assert stat == source.stat(4)
    assert stat == Stat(15, (tmp_path / "sub/deep/c.Jpeg").stat().st_mtime_ns)


def test_folders_are_classes_when_every_picture_lies_in_one(tmp_path: Path) -> None:
    fill(tmp_path, "dogs/1.jpg", "cats/a/2.jpg", "cats/1.jpg")
    source = FolderSource(root=str(tmp_path))
    assert source.classes == ("cats", "dogs")
    assert [(item.key, item.label) for item in items(source)] == [
        ("cats/1", 0),
        ("cats/a/2", 0),
        ("dogs/1", 1),
    ]
    fill(tmp_path, "loose.jpg")
    loose = FolderSource(root=str(tmp_path))
    assert loose.classes == ()
    assert {item.label for item in items(loose)} == {None}


def test_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.v2.jpg")
    fill(tmp_path, "a.txt:\ufeff  Ein Bär.\n", "b.txt: \n", "e.v2.txt:two", "e.txt:not this")
    (tmp_path / "c.txt").write_bytes("Ein Bär".encode("latin-1"))
    source = FolderSource(root=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert [item.caption for item in items(source)] == ["Ein Bär.", None, None, None, "two"]
    assert [record.getMessage() for record in caplog.records] == [
        f"caption left out: {tmp_path}/c.txt is not UTF-8"
    ]


def test_links(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "elsewhere", "x.jpg", "y.jpg")
    root = fill(tmp_path / "root", "a.jpg")
    (root / "folder").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    (root / "link.jpg").symlink_to(elsewhere / "x.jpg")
    (root / "gone.jpg").symlink_to(elsewhere / "z.jpg")
    source = FolderSource(root=str(root))
    assert [item.key for item in items(source)] == ["a", "gone", "link"]
    assert source.read(2)[0] == b"x.jpg"
    assert source.stat(1) is None
    with pytest.raises(SourceError, match=r"gone\.jpg: no such file"):
        source.read(1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.jpg", "a.png"),
        ("a.jpg", "A.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("x/Straße.jpg", "x/STRASSE.jpg"),
    ],
)
def test_a_collision_names_both_files(tmp_path: Path, first: str, second: str) -> None:
    fill(tmp_path, first, second, "other.jpg")
    with pytest.raises(UsageError) as refusal:
        FolderSource(root=str(tmp_path))
    assert str(tmp_path / first) in str(refusal.value)
    assert str(tmp_path / second) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_names_that_are_not_text_get_safe_keys(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.jpg")).write_bytes(b"here")
    source = FolderSource(root=str(tmp_path))
    assert source[0].key == r"\xff\x0a"
    assert source.read(0)[0] == b"here"


def test_what_is_wrong_with_a_root_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent does not exist: set dataset\.root"):
        FolderSource(root=str(tmp_path / "absent"))
    fill(tmp_path, "file.jpg", "empty/readme.md")
    with pytest.raises(UsageError, match=r"file\.jpg is not a folder"):
        FolderSource(root=str(tmp_path / "file.jpg"))
    with pytest.raises(UsageError, match=r"no picture in it \(\.gif .*\.webp\), 1 other files"):
        FolderSource(root=str(tmp_path / "empty"))


def test_it_travels_to_workers(tmp_path: Path) -> None:
    fill(tmp_path, "c/a.jpg", "c/b.jpg")
    source = FolderSource(root=str(tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert items(copy) == items(source)
    assert copy.read(1) == source.read(1)


def test_thirty_thousand_pictures_are_listed_in_seconds(tmp_path: Path) -> None:
    for number in range(30_000):
        os.close(os.open(tmp_path / f"{number:05d}.jpg", os.O_CREAT | os.O_WRONLY))
    start = time.perf_counter()
    assert len(FolderSource(root=str(tmp_path))) == 30_000
    assert time.perf_counter() - start < 5


def test_the_first_few(tmp_path: Path) -> None:
    source = FolderSource(root=str(fill(tmp_path, "x/a.jpg", "x/b.jpg", "y/c.jpg")), orient=False)
    two = First(source, 2)
    assert len(two) == 2
    assert [two[index] for index in range(2)] == items(source)[:2]
    assert two.read(1) == source.read(1)
    assert two.stat(1) == source.stat(1)
    assert (two.classes, two.orient, two.strict) == (("x", "y"), False, True)
    with pytest.raises(IndexError):
        two.read(2)
    assert len(First(source, 9)) == 3
    with pytest.raises(UsageError, match="limit=0"):
        First(source, 0)


def test_links_to_folders_are_counted_and_a_link_to_itself_fails_alone(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "a.jpg", "cats/b.jpg")
    (root / "more").symlink_to("cats")
    (root / "self.jpg").symlink_to("self.jpg")
    source = FolderSource(root=str(root))
    assert [item.key for item in items(source)] == ["a", "cats/b", "self"]
    assert source.ignored == 1
    with pytest.raises(SourceError):
        source.read(2)


def test_an_excluded_folder_is_left_out_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "root", "a.jpg", "out/preview.png", "sub/out/b.jpg")
    monkeypatch.chdir(root)
    keys = [item.key for item in items(FolderSource(root=".", exclude="out"))]
    assert keys == ["a", "sub/out/b"]


def test_collisions_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, *(f"p{number}.{suffix}" for number in range(3) for suffix in ("jpg", "png")))
    with pytest.raises(UsageError, match=r"p0\.jpg and .*p0\.png .* so would 2 more"):
        FolderSource(root=str(tmp_path))
