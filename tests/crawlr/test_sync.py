"""A sync as a user runs it: what comes, what stays, what is counted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from photo_server import PhotoServer
from sync_runs import ledger, links, picture, pictures, raw, reasons, summary, sync, tree

from latentkit.sources import ApprovedSource
from latentkit.stores import OutputLock


def test_two_thousand_photos_come_once_and_a_repeat_fetches_none(work: Path) -> None:
    photos = {f"photo-{n:04d}": picture(n % 50, ("JPEG", "PNG", "WEBP", "GIF")[n % 4]) for n in range(2000)}
    with PhotoServer(photos) as server:
        first = sync(server, work)
        assert first.returncode == 0, first.stderr
        assert raw(work) == photos
        kinds = ("jpg", "png", "webp", "gif")
        assert links(work) == {f"{name}.{kinds[n % 4]}": f"../raw/{name}" for n, name in enumerate(photos)}
        assert server.fetched() == dict.fromkeys(photos, 1)
        assert server.connections <= 17, "the list's and sixteen: kept alive"
        for name, entry in ledger(work).items():
            there = work / "data/raw" / name
            assert entry["sha256"] == hashlib.sha256(photos[name]).hexdigest()
            assert (entry["size"], entry["mtime_ns"]) == (there.stat().st_size, there.stat().st_mtime_ns)
            assert entry["listed"] is True
        counts = summary(work)
        assert (counts["processed"], counts["downloaded"], counts["links_created"]) == (2000, 2000, 2000)
        assert counts["complete"] is True

        before = tree(work)
        again = sync(server, work)
        assert again.returncode == 0
        assert server.fetched() == dict.fromkeys(photos, 1)
        assert tree(work) == before
        counts = summary(work)
        assert (counts["present"], counts["downloaded"], counts["links_unchanged"]) == (2000, 0, 2000)
    assert len(ApprovedSource(root=f"{work}/data/approved", raw=f"{work}/data/raw")) == 2000


def test_the_lists_other_fields_are_kept_and_a_caption_is_found(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(2)
    server.entries = [
        server.entry("p000", caption="  A red door. ", tags=["door", "ü"], score=0.5),
        server.entry("p001", id=7),
    ]
    assert sync(server, work).returncode == 0
    assert ledger(work)["p000"]["metadata"] == {
        "caption": "  A red door. ",
        "tags": ["door", "ü"],
        "score": 0.5,
    }
    source = ApprovedSource(
        root=f"{work}/data/approved", raw=f"{work}/data/raw", photos=f"{work}/data/photos.jsonl"
    )
    assert [source[index].caption for index in range(2)] == ["A red door.", None]
    server.entries[1]["description"] = "A wall."
    assert sync(server, work).returncode == 0
    assert ledger(work)["p001"]["metadata"] == {"id": 7, "description": "A wall."}


def test_a_dry_run_touches_nothing_and_says_what_a_run_would_do(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(5)
    ended = sync(server, work, "dry_run=true")
    assert ended.returncode == 0
    assert "│ to download     │ 5 │" in ended.stderr
    assert not list(work.iterdir())
    assert sync(server, work).returncode == 0
    server.photos["p999"] = picture(9)
    (work / "data/approved/p001.png").unlink()
    before = tree(work)
    ended = sync(server, work, "dry_run=true")
    assert "│ to download     │ 1 │" in ended.stderr
    assert "│ links created   │ 1 │" in ended.stderr
    assert tree(work) == before
    assert "p999" not in server.fetched()


def test_a_limit_takes_the_first_entries_and_proves_nothing_about_the_rest(
    server: PhotoServer, work: Path
) -> None:
    server.photos |= pictures(6)
    assert sync(server, work, "limit=2").returncode == 0
    assert list(raw(work)) == ["p000", "p001"]
    assert sync(server, work).returncode == 0
    del server.photos["p005"]
    assert sync(server, work, "limit=5").returncode == 0
    assert all(entry["listed"] for entry in ledger(work).values())
    assert summary(work)["complete"] is False
    ended = sync(server, work, "limit=5", "prune=true")
    assert ended.returncode == 1
    assert "prune=true needs the whole list" in ended.stderr
    assert len(raw(work)) == 6


def test_a_withdrawn_photo_is_marked_and_goes_when_pruned(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(10)
    assert sync(server, work).returncode == 0
    del server.photos["p003"]
    assert sync(server, work).returncode == 0
    assert [name for name, entry in ledger(work).items() if not entry["listed"]] == ["p003"]
    assert "p003" in raw(work), "withdrawn, and still there"
    before = tree(work)
    ended = sync(server, work, "prune=true", "dry_run=true")
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == ["link data/approved/p003.gif", "raw data/raw/p003"]
    assert tree(work) == before
    ended = sync(server, work, "prune=true")
    assert ended.returncode == 0, ended.stderr
    assert list(raw(work)) == [f"p{n:03d}" for n in range(10) if n != 3]
    assert "p003.gif" not in links(work)
    server.photos["p003"] = picture(3, "GIF")
    assert sync(server, work).returncode == 0
    assert raw(work)["p003"] == picture(3, "GIF")


def test_pruning_more_than_a_fifth_is_refused(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(8)
    assert sync(server, work).returncode == 0
    for name in ("p000", "p001"):
        del server.photos[name]
    ended = sync(server, work, "prune=true")
    assert ended.returncode == 1
    assert "max_share" in ended.stderr
    assert len(raw(work)) == len(links(work)) == 8


def test_an_entry_without_a_url_is_missing_unless_the_file_is_there(server: PhotoServer, work: Path) -> None:
    (work / "data/raw").mkdir(parents=True)
    (work / "data/raw/mine").write_bytes(picture(1, "PNG"))
    server.entries = [{"filename": "mine"}, {"filename": "gone", "exportable_url": None}]
    assert sync(server, work).returncode == 0
    counts = summary(work)
    assert (counts["missing"], counts["decoded"], counts["downloaded"]) == (1, 1, 0)
    assert links(work) == {"mine.png": "../raw/mine"}
    assert (ledger(work)["gone"]["type"], ledger(work)["mine"]["type"]) == (None, "png")


def test_a_photo_listed_twice_is_taken_once_and_other_bytes_are_a_conflict(
    server: PhotoServer, work: Path
) -> None:
    server.photos |= {"a": picture(1), "b": picture(2), "same": picture(1), "other": picture(3)}
    server.entries = [
        server.entry("a"),
        server.entry("a"),
        {"filename": "b", "exportable_url": server.url("b")},
        {"filename": "a", "exportable_url": server.url("same")},
        {"filename": "b", "exportable_url": server.url("other")},
    ]
    ended = sync(server, work)
    assert ended.returncode == 3
    assert raw(work) == {"a": picture(1), "b": picture(2)}
    assert (summary(work)["duplicates"], summary(work)["conflicts"]) == (2, 1)
    assert "conflict: listed again, with other bytes" in reasons(work)["b"]
    assert server.fetched() == {"a": 1, "b": 1, "same": 1, "other": 1}
    assert sync(server, work).returncode == 3
    assert server.fetched() == {"a": 1, "b": 1, "same": 1, "other": 1}, "remembered"
    assert (summary(work)["duplicates"], summary(work)["conflicts"]) == (2, 1)


def test_the_second_url_of_a_photo_counts_when_the_first_has_nothing(server: PhotoServer, work: Path) -> None:
    server.photos["b"] = picture(1)
    server.entries = [
        {"filename": "none"},
        {"filename": "none", "exportable_url": server.url("b")},
        {"filename": "lost", "exportable_url": server.url("lost")},
        {"filename": "lost", "exportable_url": server.url("b")},
    ]
    assert sync(server, work).returncode == 0
    assert raw(work) == {"lost": picture(1), "none": picture(1)}
    assert (summary(work)["missing"], summary(work)["failed"]) == (0, 0)


def test_one_writer_at_a_time_also_for_what_is_pruned(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(2)
    with OutputLock(work / "data"):
        ended = sync(server, work)
    assert ended.returncode == 1
    assert "data is being written by pid" in ended.stderr
    with OutputLock(work / "data/derived"):
        assert sync(server, work, "prune=true").returncode == 1
        assert not server.requests
        assert sync(server, work).returncode == 0


def test_wrong_usage_is_one_line(server: PhotoServer, work: Path) -> None:
    for arguments, word in (
        (("base_url=file:///etc/passwd",), "give an http or https URL"),
        (("base_url='http://['",), "give an http or https URL"),
        (("connections=0",), "connections=0: must be at least 1"),
        (("limit=0",), "limit=0: must be at least 1"),
        (("deadline=0",), "deadline=0: must be over 0"),
        (("dataset=folder", "dataset.root=photos"), "give dataset=crawlr"),
        (("output_dir=data",), "output_dir=data is where the photo ledger lies"),
    ):
        ended = sync(server, work, *arguments)
        assert ended.returncode == 2, arguments
        assert word in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert not server.requests
    assert not list(work.iterdir())
