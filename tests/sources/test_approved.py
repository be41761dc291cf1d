"""The photo library's links: followed into its own folders, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentkit.errors import UsageError
from latentkit.sources import ApprovedSource, SourceError


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/raw and data/approved with one photo, as a sync leaves them; the working folder is above."""
    for folder in ("data/raw", "data/approved", "data/derived"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    add(tmp_path, "abc123.jpg", b"the photo")
    return tmp_path / "data"


def add(root: Path, name: str, content: bytes) -> None:
    (root / "data/raw" / name).write_bytes(content)
    (root / "data/approved" / name).symlink_to(f"../raw/{name}")


def records(library: Path, *lines: str) -> None:
    (library / "derived/approved_image_dataset.jsonl").write_text("\n".join(lines) + "\n")


def test_a_photo_is_read_through_its_link(library: Path) -> None:
    source = ApprovedSource()
    item = source[0]
    assert (item.key, item.location, item.caption) == ("abc123", "data/approved/abc123.jpg", None)
    data, stat = source.read(0)
    assert data == b"the photo"
    assert stat == source.stat(0)
    assert stat is not None
    assert stat.mtime_ns == (library / "raw/abc123.jpg").stat().st_mtime_ns


def test_captions_come_from_beside_then_from_the_records(library: Path) -> None:
    for name in ("b.png", "c.webp", "d.jpg"):
        add(library.parent, name, b"x")
    records(
        library,
        json.dumps({"image_id": "abc123", "caption": "old"}),
        json.dumps({"image_path": "data/approved/b.png", "caption": " by path "}),
        "{broken",
        "",
        json.dumps(["no", "record"]),
        json.dumps({"caption": "whose?"}),
        json.dumps({"image_id": "abc123", "caption": "new"}),
        json.dumps({"image_id": "abc123", "width": 5}),
        json.dumps({"image_id": "gone", "caption": "of a photo no longer approved"}),
        json.dumps({"image_id": "d", "caption": 5}),
    )
    (library / "approved/b.txt").write_text("")
    (library / "approved/c.txt").write_text("beside")
    source = ApprovedSource()
    assert {source[i].key: source[i].caption for i in range(4)} == {
        "abc123": "new",
        "b": "by path",
        "c": "beside",
        "d": None,
    }
    assert source.bad_records == 4
    (library / "approved/abc123.txt").write_text("of its own")
    assert ApprovedSource()[0].caption == "of its own"


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../secret.jpg", "../raw/../../secret.jpg", "../raw/in/x.jpg"]
)
def test_a_link_that_leads_out_is_not_followed(library: Path, target: str) -> None:
    (library.parent / "secret.jpg").write_bytes(b"secret")
    (library / "raw/in").symlink_to(library.parent)
    (library.parent / "x.jpg").write_bytes(b"secret")
    (library / "approved/evil.jpg").symlink_to(target)
    source = ApprovedSource()
    assert source[1].key == "evil"
    assert source.stat(1) is None
    with pytest.raises(SourceError, match="outside of data/raw: not followed"):
        source.read(1)
    assert source.read(0)[0] == b"the photo"


def test_a_link_swapped_into_raw_is_not_followed(library: Path) -> None:
    source = ApprovedSource()
    (library.parent / "secret.jpg").write_bytes(b"secret")
    (library / "raw/abc123.jpg").unlink()
    (library / "raw/abc123.jpg").symlink_to("../../secret.jpg")
    with pytest.raises(SourceError, match="a symbolic link that may not be followed"):
        source.read(0)
    assert source.stat(0) is None


def test_an_entry_swapped_for_a_link_after_it_was_looked_at_is_not_followed(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (library / "approved/file.jpg").write_bytes(b"a file of its own")
    source = ApprovedSource()
    resolve = source._file

    def resolve_then_swap(name: str) -> Path:
        resolved = resolve(name)
        (library / "approved/file.jpg").unlink()
        (library / "approved/file.jpg").symlink_to("/etc/hostname")
        return resolved

    assert source.read(1)[0] == b"a file of its own"
    monkeypatch.setattr(source, "_file", resolve_then_swap)
    with pytest.raises(SourceError, match="may not be followed"):
        source.read(1)


def test_a_broken_link_says_what_is_gone(library: Path) -> None:
    source = ApprovedSource()
    (library / "raw/abc123.jpg").unlink()
    with pytest.raises(SourceError, match=r"abc123\.jpg: its target \.\./raw/abc123\.jpg is gone"):
        source.read(0)
    (library / "approved/abc123.jpg").unlink()
    with pytest.raises(SourceError, match="no such file"):
        source.read(0)


def test_a_link_within_approved_and_a_raw_folder_on_another_disk(library: Path) -> None:
    (library / "approved/copy.jpg").symlink_to("own.jpg")
    (library / "approved/own.jpg").write_bytes(b"own")
    (library / "raw").rename(library.parent / "moved")
    (library / "raw").symlink_to(library.parent / "moved")
    source = ApprovedSource()
    assert [source.read(index)[0] for index in range(3)] == [b"the photo", b"own", b"own"]


def test_a_library_that_was_never_synced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist: sync the photo library first"):
        ApprovedSource(root=str(tmp_path / "approved"))
    (tmp_path / "approved").mkdir()
    with pytest.raises(UsageError, match="no picture in it"):
        ApprovedSource(root=str(tmp_path / "approved"))


def test_two_photos_of_one_id_are_refused(library: Path) -> None:
    add(library.parent, "abc123.png", b"another")
    with pytest.raises(UsageError, match=r"abc123\.jpg and data/approved/abc123\.png would have one key"):
        ApprovedSource()
