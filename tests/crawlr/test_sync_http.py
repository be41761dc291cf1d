"""Servers at their worst: every photo here is answered wrongly in its own way, all in one sync."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from photo_server import Answer, Behaviour, PhotoServer, Request
from sync_runs import failures, ledger, picture, pictures, raw, reasons, sync

RETRIES = 3
HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_short(answer: Answer, number: int) -> None:
    data = answer.photo()
    answer.send(200, half(data), len(data)) if number == 1 else answer.right()


def always_cut_short(answer: Answer, number: int) -> None:
    data = answer.photo()
    answer.send(200, half(data), len(data))


def cut_without_length(answer: Answer, number: int) -> None:
    answer.send(200, half(answer.photo()), -1) if number == 1 else answer.right()


def always_cut_without_length(answer: Answer, number: int) -> None:
    answer.send(200, half(answer.photo()), -1)


def resumable(answer: Answer, number: int) -> None:
    data = answer.photo()
    if number == 1:
        answer.send(200, half(data), len(data), ETag='"v1"')
    else:
        start = int(answer.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        answer.send(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")


def answered_whole(answer: Answer, number: int) -> None:
    data = answer.photo()
    answer.send(200, half(data), len(data), ETag='"v1"') if number == 1 else answer.right()


def another_range(answer: Answer, number: int) -> None:
    data = answer.photo()
    if "Range" in answer.headers:
        answer.send(206, data, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}")
    else:
        cut_short_with_tag(answer, number)


def another_total(answer: Answer, number: int) -> None:
    data = answer.photo()
    if "Range" in answer.headers:
        start = len(half(data))
        answer.send(
            206, data[start:] + b"more", Content_Range=f"bytes {start}-{len(data) + 3}/{len(data) + 4}"
        )
    else:
        cut_short_with_tag(answer, number)


def range_not_satisfiable(answer: Answer, number: int) -> None:
    if "Range" in answer.headers:
        answer.send(416)
    else:
        cut_short_with_tag(answer, number)


def cut_short_with_tag(answer: Answer, number: int) -> None:
    data = answer.photo()
    answer.send(200, half(data), len(data), ETag='"v1"') if number == 1 else answer.right()


def weak_tag(answer: Answer, number: int) -> None:
    data = answer.photo()
    answer.send(200, half(data), len(data), ETag='W/"v1"') if number == 1 else answer.right()


def throttled(answer: Answer, number: int) -> None:
    answer.send(429, b"slower", Retry_After="2") if number == 1 else answer.right()


def throttled_until(answer: Answer, number: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    answer.send(429, b"slower", Retry_After=date) if number == 1 else answer.right()


def storm(answer: Answer, number: int) -> None:
    answer.send(503, b"later") if number <= 2 else answer.right()


def broken(answer: Answer, number: int) -> None:
    answer.send(500, b"oh")


def reset(answer: Answer, number: int) -> None:
    if number > 2:
        answer.right()
        return
    answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer.hang_up()
    answer.connection.close()


def dribbled_body(answer: Answer, number: int) -> None:
    answer.send_response(200)
    answer.send_header("Content-Length", "1000000")
    answer.end_headers()
    dribble(answer)


def dribbled_header(answer: Answer, number: int) -> None:
    answer.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    dribble(answer)


def dribble(answer: Answer) -> None:
    """A byte now and then, until nobody listens."""
    answer.close_connection = True
    for _ in range(1000):
        answer.wfile.write(b"x")
        answer.wfile.flush()
        time.sleep(0.05)


def to(location: str) -> Behaviour:
    return lambda answer, number: answer.send(302, b"over there", Location=location)


def chain(answer: Answer, number: int) -> None:
    _, _, hop = answer.path.partition("?")
    answer.send(302, Location=f"?{int(hop or 0) + 1}")


def zipped(answer: Answer, number: int) -> None:
    answer.send(200, answer.photo(), Content_Encoding="gzip")


def huge(answer: Answer, number: int) -> None:
    answer.send(200, b"x", 2**31)


GOOD: dict[str, Behaviour] = {
    "cut_short": cut_short,
    "cut_without_length": cut_without_length,
    "resumable": resumable,
    "answered_whole": answered_whole,
    "another_range": another_range,
    "another_total": another_total,
    "range_not_satisfiable": range_not_satisfiable,
    "weak_tag": weak_tag,
    "throttled": throttled,
    "throttled_until": throttled_until,
    "storm": storm,
    "reset": reset,
    "redirected": to("/photo/elsewhere"),
}

FAILING: dict[str, tuple[Behaviour, str, int]] = {
    "always_cut_short": (always_cut_short, "bytes, after 4 attempts", RETRIES + 1),
    "broken": (broken, "HTTP 500 Internal Server Error, after 4 attempts", RETRIES + 1),
    "absent": (lambda answer, number: answer.send(404), "HTTP 404 Not Found", 1),
    "dribbled_body": (dribbled_body, "not done within 2 s, after 4 attempts", RETRIES + 1),
    "dribbled_header": (dribbled_header, "not done within 2 s, after 4 attempts", RETRIES + 1),
    "loop": (to("/photo/loop?"), "a redirect loop", 1),
    "chain": (chain, "over 5 redirects", 1),
    "to_file": (to("file:///etc/passwd"), "redirected from http to file: refused", 1),
    "to_ftp": (to("ftp://127.0.0.1/photo"), "redirected from http to ftp: refused", 1),
    "to_https": (to("https://127.0.0.1/photo"), "redirected from http to https: refused", 1),
    "to_nobody": (
        to("http://127.0.0.1:9/photo"),
        "cannot reach 127.0.0.1:9: connection refused, after 4 attempts",
        RETRIES + 1,
    ),
    "zipped": (zipped, "sent with the encoding gzip", 1),
    "huge": (huge, "over the limit of 1,073,741,824 bytes", 1),
}

QUARANTINED: dict[str, tuple[Behaviour, str]] = {
    "always_cut_without_length": (always_cut_without_length, "decode: "),
    "html": (lambda answer, number: answer.send(200, HTML), "type: an HTML page, no picture"),
}

NO_URLS = {"file": "file:///etc/passwd", "words": "not a URL", "bracket": "http://[::1"}


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PhotoServer, Path]]:
    """One sync of all of these, and of a hundred photos that are answered well."""
    work = tmp_path_factory.mktemp("http") / "work"
    work.mkdir()
    wrong = {**GOOD, **{name: case[0] for name, case in (FAILING | QUARANTINED).items()}}
    wrong["loop?"] = to("/photo/loop")
    photos = {name: picture(n) for n, name in enumerate(wrong)} | pictures(100) | {"elsewhere": picture(77)}
    with PhotoServer(photos) as server:
        for name, behaviour in wrong.items():
            server.behaviours[f"/photo/{name}"] = behaviour
        for hop in range(10):
            server.behaviours[f"/photo/chain?{hop}"] = chain
        server.entries = [server.entry(name) for name in photos if name not in ("loop?", "elsewhere")]
        server.entries += [{"filename": name, "exportable_url": url} for name, url in NO_URLS.items()]
        ended = sync(server, work, f"retries={RETRIES}", "deadline=2")
        assert ended.returncode == 1, ended.stderr
        assert failures(work).keys() == FAILING.keys() | NO_URLS.keys()
        yield server, work


def requests(server: PhotoServer, name: str) -> list[Request]:
    return [request for request in server.requests if request.path == f"/photo/{name}"]


@pytest.mark.parametrize("name", GOOD)
def test_it_comes_whole_in_the_end(name: str, synced: tuple[PhotoServer, Path]) -> None:
    server, work = synced
    served = "elsewhere" if name == "redirected" else name
    assert raw(work)[name] == server.photos[served]
    assert ledger(work)[name]["size"] == len(server.photos[served])


@pytest.mark.parametrize("name", FAILING)
def test_it_fails_with_a_reason_and_leaves_nothing(name: str, synced: tuple[PhotoServer, Path]) -> None:
    server, work = synced
    _, reason, attempts = FAILING[name]
    assert reason in failures(work)[name]
    assert len(requests(server, name)) == attempts
    assert name not in raw(work)
    assert ledger(work)[name]["sha256"] is None


@pytest.mark.parametrize("name", QUARANTINED)
def test_it_is_fetched_twice_and_quarantined(name: str, synced: tuple[PhotoServer, Path]) -> None:
    server, work = synced
    assert reasons(work)[name].startswith(QUARANTINED[name][1])
    assert len(requests(server, name)) == 2
    assert name not in raw(work)


def test_what_is_no_url_is_refused(synced: tuple[PhotoServer, Path]) -> None:
    _, work = synced
    for name in NO_URLS:
        assert failures(work)[name]
        assert name not in raw(work)
    assert failures(work)["file"] == "not an http or https URL"


def test_the_others_came_and_nothing_is_left_over(synced: tuple[PhotoServer, Path]) -> None:
    _, work = synced
    assert pictures(100).items() <= raw(work).items()
    assert len(raw(work)) == 100 + len(GOOD)


def test_only_a_body_with_a_strong_tag_is_resumed_and_only_its_rest_is_sent(
    synced: tuple[PhotoServer, Path],
) -> None:
    server, _ = synced
    start = len(half(server.photos["resumable"]))
    headers = requests(server, "resumable")[1].headers
    assert (headers["Range"], headers["If-Range"]) == (f"bytes={start}-", '"v1"')
    for name in ("cut_short", "weak_tag"):
        assert "Range" not in requests(server, name)[1].headers
    for name in ("another_range", "another_total", "range_not_satisfiable"):
        _, second, third = requests(server, name)
        assert "Range" in second.headers
        assert "Range" not in third.headers


def test_it_waits_as_long_as_it_is_asked_to(synced: tuple[PhotoServer, Path]) -> None:
    server, _ = synced
    for name in ("throttled", "throttled_until"):
        first, second = requests(server, name)
        assert second.time - first.time >= 1.9, "a date has no fractions of a second"


def test_a_throttled_photo_holds_up_no_other(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(30)
    server.behaviours["/photo/p000"] = lambda answer, number: (
        answer.send(429, Retry_After="3") if number == 1 else answer.right()
    )
    assert sync(server, work, "connections=1").returncode == 0
    assert raw(work) == server.photos
    assert requests(server, "p000")[-1] == server.requests[-1]
    assert len(server.requests) == 2 + 31


def test_a_server_that_fails_every_photo_ends_the_sync(server: PhotoServer, work: Path) -> None:
    server.photos |= {f"{n:03d}": b"" for n in range(300)}
    server.behaviours |= {f"/photo/{name}": broken for name in server.photos}
    ended = sync(server, work, "retries=0")
    assert ended.returncode == 1
    assert "100 downloads in a row failed, the last" in ended.stderr
    assert len(server.fetched()) < 300
