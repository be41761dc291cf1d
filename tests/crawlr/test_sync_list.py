"""Lists that cannot be believed: the sync ends with one line, keeps what came, and removes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from photo_server import Answer, PhotoServer
from sync_runs import ledger, links, picture, pictures, raw, summary, sync, tree


def answering(value: Any) -> Callable[[Answer, int], None]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda answer, number: answer.send(200, body)


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def repeating(answer: Answer, number: int) -> None:
    answer.path = "/photos.json?page=2"
    answer.right()


def shuffled(answer: Answer, number: int) -> None:
    server = answer.server.owner
    answering([server.entry("p003"), server.entry("p000")])(answer, number)


BAD: dict[str, tuple[int, Callable[[Answer, int], None], str]] = {
    "page 3 fails": (3, lambda answer, number: answer.send(500), "photos.json?page=3: HTTP 500"),
    "page 3 is gone": (3, lambda answer, number: answer.send(404), "photos.json?page=3: HTTP 404"),
    "page 3 is cut short": (3, lambda answer, number: answer.send(200, b"[", 99), "1 of 99 bytes"),
    "it has no end": (3, repeating, "photos.json?page=3 has only photos that"),
    "it repeats in another order": (3, shuffled, "photos.json?page=3 has only photos that"),
    "page 1 is empty": (1, answering([]), "the list is empty"),
    "an object": (1, answering({"photos": []}), "is an object, not an array"),
    "a page that is HTML": (2, answering(b"<html>"), "page=2 is not JSON"),
    "nested for ever": (2, answering(b"[" * 100_000), "page=2 is not JSON"),
    "an entry is a text": (2, answering(["p000"]), "entry 1 of"),
    "an entry has no name": (2, answering([{"file": "p002"}]), "has no filename"),
    "a name is a number": (2, answering([{"filename": 7}]), "has no filename"),
    "a URL is a list": (2, answering([{"filename": "x", "exportable_url": []}]), "is an array"),
    "a field is no JSON": (
        2,
        answering(b'[{"filename": "p002", "score": NaN}]'),
        "not finite",
    ),
    "a field is over all numbers": (
        2,
        answering(b'[{"filename": "x", "score": 1e999}]'),
        "not finite",
    ),
    "an entry is nested deep": (
        2,
        answering([{"filename": "x", "tags": nested(500)}]),
        "nested over 100 deep",
    ),
}


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    return pictures(8)


@pytest.mark.parametrize("what", BAD)
def test_nothing_is_taken_for_withdrawn(what: str, photos: dict[str, bytes], work: Path) -> None:
    page, behaviour, message = BAD[what]
    with PhotoServer(dict(photos), page_size=2) as server:
        assert sync(server, work).returncode == 0
        server.photos["new"] = picture(99)
        del server.photos["p001"]
        server.behaviours[f"/photos.json?page={page}"] = behaviour
        ended = sync(server, work, "prune=true", "max_share=1", "retries=1")
        assert ended.returncode == 1
        error = ended.stderr.splitlines()[-1]
        assert error.startswith("latentkit: the list ")
        assert message in error
        assert "nothing was pruned" in ended.stderr
        assert photos.items() <= raw(work).items()
        assert len(links(work)) == len(raw(work))
        assert all(entry["listed"] for entry in ledger(work).values())
        assert summary(work)["complete"] is False
        if page > 1:
            assert raw(work)["new"] == picture(99), "page 1 has it: it came, and stays"
            assert ledger(work)["new"]["type"] == "jpg"

        server.behaviours.clear()
        assert sync(server, work).returncode == 0
        assert [name for name, entry in ledger(work).items() if not entry["listed"]] == ["p001"]
        assert raw(work).keys() == photos.keys() | {"new"}


def test_bad_entries_are_passed_over_counted_and_nothing_is_pruned(
    photos: dict[str, bytes], work: Path
) -> None:
    with PhotoServer(dict(photos), page_size=3) as server:
        assert sync(server, work).returncode == 0
        server.photos |= {"new": picture(99), "last": picture(98)}
        entry = server.entry
        bad = [{"file": "p001"}, ["p001"], {"filename": None}, {"filename": "p001", "exportable_url": 1}]
        server.entries = [entry("p000"), bad[0], entry("new"), *bad[1:], entry("p002"), bad[0], entry("last")]
        before = tree(work)
        assert sync(server, work, "dry_run=true").returncode == 1
        assert tree(work) == before
        ended = sync(server, work, "prune=true", "max_share=1")
        assert ended.returncode == 1, ended.stderr
        assert "│ bad entries     │ 5 │" in ended.stderr
        assert "nothing was pruned" in ended.stderr
        page = server.base_url + "?page="
        assert ended.stderr.splitlines()[-1] == (
            f"latentkit: the list has bad entries (5), the first entry 2 of {page}1: it has no filename; "
            "all others were taken"
        )
        assert summary(work)["bad_entries"] == [
            {"entry": f"entry 2 of {page}1", "reason": "it has no filename"},
            {"entry": f"entry 1 of {page}2", "reason": "it is an array, not an object"},
            {"entry": f"entry 2 of {page}2", "reason": "it has no filename"},
            {"entry": f"entry 3 of {page}2", "reason": "its exportable_url is a number"},
            {"entry": f"entry 2 of {page}3", "reason": "it has no filename"},
        ]
        assert (summary(work)["processed"], summary(work)["complete"]) == (9, False)
        assert raw(work) == server.photos
        assert all(entry["listed"] for entry in ledger(work).values())

        server.entries = [entry("p000"), entry("p002"), entry("new"), entry("last")]
        assert sync(server, work, "prune=true", "max_share=1").returncode == 0
        assert raw(work).keys() == {"p000", "p002", "new", "last"}


def test_a_list_of_nothing_but_bad_entries_has_an_end(photos: dict[str, bytes], work: Path) -> None:
    with PhotoServer(dict(photos), page_size=2) as server:
        for page in range(2, 9):
            server.behaviours[f"/photos.json?page={page}"] = answering([{"error": "busy"}])
        ended = sync(server, work)
        assert ended.returncode == 1
        assert "page=3 has no photo, nor has the page before" in ended.stderr.splitlines()[-1]
        assert "bad entries" in ended.stderr
        assert raw(work).keys() == {"p000", "p001"}


def test_a_bad_entry_of_the_second_reading_keeps_everything(photos: dict[str, bytes], work: Path) -> None:
    with PhotoServer(dict(photos), page_size=2) as server:
        assert sync(server, work).returncode == 0
        del server.photos["p001"]
        page_two = [{"file": "p001"}, server.entry("p003")]
        server.behaviours["/photos.json?page=2"] = lambda answer, number: (
            answer.right() if number == 2 else answering(page_two)(answer, number)
        )
        ended = sync(server, work, "prune=true", "max_share=1")
        assert ended.returncode == 1
        assert "the list has bad entries (1)" in ended.stderr.splitlines()[-1]
        assert raw(work) == photos


def test_a_page_is_tried_again(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(3)
    server.behaviours["/photos.json?page=1"] = lambda answer, number: (
        answer.send(503) if number == 1 else answer.right()
    )
    assert sync(server, work).returncode == 0
    assert raw(work) == server.photos


def test_a_list_with_a_query_of_its_own(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(3)
    server.base_url += "?approved=1"
    assert sync(server, work).returncode == 0
    assert server.requests[0].path == "/photos.json?approved=1&page=1"
    assert raw(work) == server.photos


def withdrawing(server: PhotoServer, name: str) -> Callable[[Answer, int], None]:
    """A page before which a photo is withdrawn."""

    def behaviour(answer: Answer, number: int) -> None:
        server.photos.pop(name, None)
        answer.right()

    return behaviour


def test_a_photo_that_slips_between_two_pages_is_not_pruned(work: Path) -> None:
    photos = pictures(10)
    with PhotoServer(dict(photos), page_size=4) as server:
        assert sync(server, work).returncode == 0
        server.behaviours["/photos.json?page=2"] = withdrawing(server, "p000")
        ended = sync(server, work, "prune=true")
        assert ended.returncode == 0, ended.stderr
        assert raw(work) == photos, "p000 was on the first reading, p004 is on the second"
        assert all(entry["listed"] for entry in ledger(work).values())
        ended = sync(server, work, "prune=true")
        assert ended.returncode == 0, ended.stderr
        assert raw(work).keys() == photos.keys() - {"p000"}


def test_when_the_second_reading_fails_nothing_is_pruned(work: Path) -> None:
    photos = pictures(10)
    with PhotoServer(dict(photos), page_size=4) as server:
        assert sync(server, work, "prune=true").returncode == 0
        assert len(server.requests) == 10 + 4, "the list is read once while all is on it"
        del server.photos["p001"]
        server.behaviours["/photos.json?page=3"] = lambda answer, number: (
            answer.right() if number == 2 else answer.send(404)
        )
        ended = sync(server, work, "prune=true")
        assert ended.returncode == 1
        assert "nothing was pruned" in ended.stderr
        assert "photos.json?page=3: HTTP 404" in ended.stderr.splitlines()[-1]
        assert summary(work)["complete"] is False
        assert raw(work) == photos
        assert all(entry["listed"] for entry in ledger(work).values())


def test_links_of_older_scripts_that_are_not_listed_are_withdrawn(work: Path) -> None:
    photos = pictures(10)
    (work / "data/raw").mkdir(parents=True)
    root = work / "data/approved"
    root.mkdir()
    for name, data in photos.items():
        (work / "data/raw" / name).write_bytes(data)
        (root / f"{name}.jpg").symlink_to(f"../raw/{name}")
    (work / "data/mine").write_bytes(picture(50))
    (root / "elsewhere.jpg").symlink_to("../mine")
    (root / "alias.jpg").symlink_to("../raw/p003")
    (root / "CON.jpg").symlink_to("../raw/CON")
    with PhotoServer({name: data for name, data in photos.items() if name != "p008"}) as server:
        server.entries = [server.entry(name) for name in (*server.photos, "CON")]
        ended = sync(server, work)
        assert "│ no longer listed │  1 │" in ended.stderr
        assert summary(work)["withdrawn"] == 1
        assert raw(work) == photos
        assert sync(server, work, "prune=true").returncode == 3, "a name is refused"
    assert raw(work).keys() == photos.keys() - {"p008"}
    assert links(work).keys() >= {"elsewhere.jpg", "alias.jpg"}
    assert "p008.jpg" not in links(work)
