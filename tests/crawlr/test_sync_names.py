"""Hostile names, and things that others put where photos and links go."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from photo_server import PhotoServer
from sync_runs import failures, ledger, links, picture, pictures, raw, reasons, summary, sync

HOSTILE = {
    "../../etc/passwd": "begins with a dot",
    "../escaped": "begins with a dot",
    "/etc/passwd": "contains /",
    "a/b": "contains /",
    "a/../../b": "contains /",
    "a\\b": "contains \\",
    "..": "begins with a dot",
    ".": "begins with a dot",
    ".hidden": "begins with a dot",
    "": "is empty",
    "nul\0byte": "contains a control character",
    "new\nline": "contains a control character",
    "esc\x1b[2J": "contains a control character",
    "c1\x9b2J": "contains a control character",
    "half\ud83d": "contains half a surrogate pair",
    "line\u2028separator": "contains a line separator",
    "x" * 300: "300 bytes long",
    "é" * 101: "202 bytes long",
    "CON": "a device on Windows",
    "con.txt": "a device on Windows",
    "Lpt1": "a device on Windows",
}


def test_a_name_that_is_no_safe_component_is_refused_and_written_nowhere(
    server: PhotoServer, work: Path
) -> None:
    names = ("[bold]brackets", "with space", "é" * 100, "CONtact")
    good = {name: picture(n) for n, name in enumerate(names)}
    server.photos |= good
    url = server.url("with space")
    server.entries = [{"filename": name, "exportable_url": url} for name in HOSTILE]
    server.entries += [server.entry(name) for name in good]
    ended = sync(server, work, "verbose=true")
    assert ended.returncode == 3, ended.stderr
    assert raw(work) == good
    assert links(work) == {f"{name}.jpg": f"../raw/{name}" for name in good}
    assert ledger(work).keys() == good.keys()
    assert summary(work)["refused"] == len(HOSTILE)
    assert sorted(path.name for path in work.parent.iterdir() if path.is_dir()) == ["work"]
    assert [path.name for path in work.iterdir()] == ["data"]
    assert "\x1b" not in ended.stderr
    assert "[bold]brackets: downloaded: jpg" in ended.stderr
    found = reasons(work)
    assert len(found) == len(HOSTILE)
    assert all(key.isprintable() for key in found)
    for reason in set(HOSTILE.values()):
        assert sum(reason in why for why in found.values()) == list(HOSTILE.values()).count(reason), reason


def test_names_that_some_disks_take_for_one_are_kept_apart_and_the_one_on_disk_stays(
    server: PhotoServer, work: Path
) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    names = [composed, decomposed, "Photo", "photo", "straße", "STRASSE"]
    server.photos |= {name: picture(n) for n, name in enumerate(names)}
    server.entries = [server.entry(name) for name in names]
    assert sync(server, work).returncode == 3
    assert raw(work).keys() == {composed, "Photo", "straße"}
    assert reasons(work)["photo"] == (
        "name: on a disk blind to case or Unicode form it is Photo, which is there"
    )
    server.entries.reverse()
    assert sync(server, work).returncode == 3
    assert raw(work).keys() == {composed, "Photo", "straße"}
    assert summary(work)["refused"] == 3
    assert server.fetched().total() == 3


def test_what_is_no_regular_file_is_neither_followed_nor_replaced(server: PhotoServer, work: Path) -> None:
    outside = work.parent / "outside"
    outside.write_bytes(picture(50))
    folder = work / "data/raw"
    folder.mkdir(parents=True)
    (folder / "p000").symlink_to(outside)
    (folder / "p001").symlink_to("nowhere")
    os.mkfifo(folder / "p002")
    (folder / "p003").mkdir()
    server.photos |= pictures(5)
    assert sync(server, work).returncode == 3
    assert outside.read_bytes() == picture(50)
    assert (folder / "p000").readlink() == outside
    assert (folder / "p001").readlink() == Path("nowhere")
    assert (folder / "p002").is_fifo()
    assert not list((folder / "p003").iterdir())
    assert links(work) == {"p004.jpg": "../raw/p004"}
    assert summary(work)["conflicts"] == 4
    assert reasons(work)["p000"] == "conflict: data/raw/p000 is no regular file: left as it is"
    assert server.fetched() == {"p004": 1}


def test_a_known_photo_that_became_a_link_is_no_longer_trusted(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(2)
    assert sync(server, work).returncode == 0
    there = work / "data/raw/p000"
    outside = work.parent / "outside"
    there.rename(outside)
    there.symlink_to(outside)
    assert sync(server, work).returncode == 3
    assert "no regular file" in reasons(work)["p000"]
    assert ledger(work)["p000"]["sha256"] is None


def test_links_of_others_stay_and_links_of_ours_are_made_right(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(6)
    root = work / "data/approved"
    root.mkdir(parents=True)
    (root / "p000.jpg").write_bytes(b"somebody's file")
    (root / "p001.png").symlink_to("../../secret")
    (root / "P002.webp").write_bytes(b"the same key on a case-blind disk")
    (root / "p003.gif").symlink_to("/old/library/raw/p003")
    (root / "p004.png").symlink_to("../raw/p004")
    (root / "p005.PNG").write_bytes(b"the same key")
    (root / "p000.txt").write_text("a caption")
    assert sync(server, work).returncode == 3
    assert {path.name for path in root.iterdir() if not path.is_symlink()} == {
        "p000.jpg",
        "P002.webp",
        "p005.PNG",
        "p000.txt",
    }
    found = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
    assert found == {"p001.png": "../../secret", "p003.gif": "../raw/p003", "p004.jpg": "../raw/p004"}
    counts = summary(work)
    assert (counts["links_created"], counts["links_updated"], counts["conflicts"]) == (0, 2, 4)
    assert raw(work) == server.photos


@pytest.mark.parametrize(("root", "there"), [("links", "data/originals"), ("a/b/links", "c/raw")])
def test_links_are_relative_wherever_the_folders_are(
    root: str, there: str, server: PhotoServer, work: Path
) -> None:
    server.photos |= pictures(1)
    assert sync(server, work, f"dataset.root={root}", f"dataset.raw={there}").returncode == 0
    link = work / root / "p000.jpg"
    assert not link.readlink().is_absolute()
    assert link.read_bytes() == server.photos["p000"]
    moved = work.rename(work.with_name("moved"))
    assert (moved / root / "p000.jpg").read_bytes() == server.photos["p000"]


def test_what_servers_and_lists_say_reaches_the_terminal_escaped(server: PhotoServer, work: Path) -> None:
    escape = "\x1b]0;title\x07\x1b[2J\x9b"
    server.photos |= {"a": picture(1), "other": picture(2), "refusing": b""}
    server.entries = [
        server.entry("a"),
        {"filename": "a", "exportable_url": f"{server.url('other')}?{escape}"},
        {"filename": "b", "exportable_url": f"http://ex{escape}mple/"},
        server.entry("refusing"),
    ]
    server.behaviours["/photo/refusing"] = lambda answer, number: answer.send_error(404, f"no{escape}")
    ended = sync(server, work, "verbose=true", "retries=0")
    assert ended.returncode == 1, ended.stderr
    assert not {"\x1b", "\x07", "\x9b"} & set(ended.stderr)
    assert r"\x1b[2J" in reasons(work)["a"]
    assert failures(work)["refusing"].startswith(r"HTTP 404 no\x1b]0;title\x07\x1b[2J")
    assert failures(work).keys() == {"b", "refusing"}


@pytest.mark.parametrize("name", ["data/raw", "data/approved", "data/photos.jsonl"])
def test_something_else_in_the_librarys_place_is_one_line(name: str, server: PhotoServer, work: Path) -> None:
    place = work / name
    place.parent.mkdir()
    if place.suffix:
        place.mkdir()
    else:
        place.symlink_to("/nonexistent") if name == "data/raw" else place.write_bytes(b"mine")
    ended = sync(server, work)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"latentkit: {name} is not a f")
    assert ended.stderr.count("\n") == 1
    assert not server.requests
    assert not list(work.rglob(".latentkit"))
