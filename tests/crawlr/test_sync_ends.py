"""Syncs that end in the middle: killed, interrupted, no room. A repeat leaves what a clean sync leaves."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from encode_process import kill_points
from photo_server import Answer, PhotoServer
from PIL import Image
from sync_runs import links, picture, pictures, raw, summary, sync, timeless, tree

KILLS = 12


@pytest.fixture(scope="module")
def mixed() -> Iterator[PhotoServer]:
    """Photos, one that is none, one listed twice with other bytes, and a hostile name."""
    photos = pictures(12) | {"broken": b"no picture", "other": picture(70)}
    with PhotoServer(photos, page_size=5) as server:
        server.entries = [server.entry(name, title=f"№ {name}") for name in photos if name != "other"]
        server.entries += [{"filename": "p001", "exportable_url": server.url("other")}, server.entry("../x")]
        yield server


def prepared(work: Path) -> Path:
    """A library with a stale link, an old ledger, and a file that is cut short."""
    for folder in ("raw", "approved"):
        (work / "data" / folder).mkdir(parents=True)
    (work / "data/raw/p002").write_bytes(pictures(3)["p002"][:-5])
    (work / "data/approved/p003.png").symlink_to("../raw/p003")
    return work


def test_killed_at_any_write_a_repeat_gives_the_same_tree(mixed: PhotoServer, tmp_path: Path) -> None:
    clean = prepared(tmp_path / "clean")
    first = sync(mixed, clean)
    assert first.returncode == 3, first.stderr
    assert first.changes is not None
    assert first.changes > 50
    for point in kill_points(first.changes, KILLS):
        work = prepared(tmp_path / f"killed-{point}")
        assert sync(mixed, work, kill_at=point).returncode == -signal.SIGKILL
        again = sync(mixed, work)
        assert again.returncode == 3, again.stderr
        assert timeless(work) == timeless(clean), f"killed at call {point}"


def test_a_photo_whose_link_is_renamed_has_one_at_every_moment(server: PhotoServer, tmp_path: Path) -> None:
    server.photos["a"] = picture(1)
    clean = tmp_path / "clean"
    clean.mkdir()
    assert sync(server, clean).returncode == 0
    (clean / "data/approved/a.jpg").rename(clean / "data/approved/a.png")
    before = shutil.copytree(clean, tmp_path / "before", symlinks=True)
    changes = sync(server, clean).changes
    assert changes is not None
    for point in range(0, changes, 2):  # replacing a link takes more than two calls
        work = shutil.copytree(before, tmp_path / f"killed-{point}", symlinks=True)
        assert sync(server, work, kill_at=point).returncode == -signal.SIGKILL
        assert "../raw/a" in links(work).values(), f"killed at call {point}"


def test_interrupted_it_says_where_it_stopped_and_goes_on(mixed: PhotoServer, tmp_path: Path) -> None:
    clean = prepared(tmp_path / "clean")
    changes = sync(mixed, clean).changes
    assert changes is not None
    for point in (changes // 3, changes // 2):
        work = prepared(tmp_path / f"interrupted-{point}")
        ended = sync(mixed, work, interrupt_at=point)
        assert ended.returncode == 130, ended.stderr
        assert "the same command goes on" in ended.stderr
        assert summary(work)["status"] == "interrupted"
        assert not [name for name in tree(work) if name.endswith(".tmp")]
        assert sync(mixed, work).returncode == 3
        assert timeless(work) == timeless(clean)


def test_an_interruption_does_not_wait_for_a_slow_server(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(6)
    reached = threading.Event()

    def dribble(answer: Answer, number: int) -> None:
        answer.send_response(200)
        answer.send_header("Content-Length", "1000000")
        answer.end_headers()
        reached.set()
        for _ in range(600):
            answer.wfile.write(b"x")
            answer.wfile.flush()
            time.sleep(0.1)

    server.behaviours["/photo/p003"] = dribble
    command = [sys.executable, "-m", "latentkit.sync", f"base_url={server.base_url}", "deadline=600"]
    with subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, text=True) as process:
        assert reached.wait(30)
        while len(raw(work)) < 5 + 1:  # the sixth is a temporary
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "interrupted after 6 entries" in stderr
    assert raw(work).keys() == server.photos.keys() - {"p003"}
    del server.behaviours["/photo/p003"]
    assert sync(server, work).returncode == 0
    assert raw(work) == server.photos
    assert server.fetched() == dict.fromkeys(server.photos, 1) | {"p003": 2}


def test_a_file_that_cannot_be_written_ends_the_sync_with_one_line(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(3) | {"zz-large": large_picture()}
    command = f"ulimit -f 16; exec {sys.executable} -m latentkit.sync base_url={server.base_url}"
    ended = subprocess.run(["bash", "-c", command], cwd=work, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "latentkit: cannot write data/raw/zz-large: File too large: raise the file size limit (ulimit -f) "
        "and start again, finished work is kept"
    )
    assert {name for name in os.listdir(work / "data/raw") if name.startswith((".", "zz"))} == set()  # noqa: PTH208
    assert sync(server, work).returncode == 0
    assert raw(work) == server.photos


def large_picture() -> bytes:
    """A PNG of over 16 KiB."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def test_a_damaged_ledger_costs_a_look_and_no_download(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(4)
    assert sync(server, work).returncode == 0
    before = timeless(work)
    path = work / "data/photos.jsonl"
    first, second, *_ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"{not json\n" + second[:-20])
    assert sync(server, work).returncode == 0
    assert {name: kept for name, kept in timeless(work).items() if not name.endswith(".bad")} == before
    assert server.fetched() == dict.fromkeys(server.photos, 1)
    assert (work / "data/photos.jsonl.bad").read_bytes() == b"{not json\n"
