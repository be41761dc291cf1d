"""The plan: what is done stays done until its source changes, and nothing is touched to find out."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import UPRIGHT
from small_runs import encode, plan_of, todo
from toy_encoders import CaptionBytes, CountedFolder, LogColour, MeanColour, expected_mean, paint, paint_plain

from latentkit.errors import LatentkitError
from latentkit.prediction.plan import bytes_per_item, check_room
from latentkit.sources import FolderSource
from latentkit.stores import Quarantine

ENCODERS = (MeanColour(), CaptionBytes())
ALL = list(range(6))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures with captions."""
    return paint(tmp_path / "in", 6)


def left(tmp_path: Path, folder: Path) -> dict[str, list[int]]:
    return todo(plan_of(tmp_path / "out", FolderSource(root=str(folder)), ENCODERS))


def run(tmp_path: Path, folder: Path, **options: object) -> None:
    encode(tmp_path / "out", FolderSource(root=str(folder)), ENCODERS, **options)


def test_everything_is_left_at_first_and_nothing_after_a_run(tmp_path: Path, folder: Path) -> None:
    assert left(tmp_path, folder) == {"mean": ALL, "bytes": ALL}
    assert not (tmp_path / "out").exists()  # planning touches nothing
    run(tmp_path, folder)
    assert left(tmp_path, folder) == {"mean": [], "bytes": []}


def test_planning_reads_no_picture_that_has_its_old_size_and_time(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, folder)
    source = CountedFolder(root=str(folder), log=str(tmp_path / "reads"))
    plan = plan_of(tmp_path / "out", source, ENCODERS)
    assert source.reads() == []
    assert [
        (part.todo, part.done, len(part.quarantined), len(part.uncaptioned)) for part in plan.encoders
    ] == [(0, 6, 0, 0)] * 2


def test_changed_bytes_are_encoded_again(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, folder)
    paint_plain(folder / "p002.png", 77)
    assert left(tmp_path, folder) == {"mean": [2], "bytes": []}
    run(tmp_path, folder)
    assert left(tmp_path, folder) == {"mean": [], "bytes": []}
    assert np.load(tmp_path / "out" / "mean" / "p002.npy").tolist() == [77, 77, 77]


def test_changed_bytes_of_equal_size_are_noticed_by_their_time(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, folder)
    path = folder / "p003.png"
    size = path.stat().st_size
    Image.new("RGB", (20, 20), (9, 9, 9)).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert path.stat().st_size == size
    assert left(tmp_path, folder) == {"mean": [3], "bytes": []}


def test_a_touched_picture_with_equal_bytes_is_not_encoded_again(tmp_path: Path, folder: Path) -> None:
    two = [MeanColour(name="first"), MeanColour(name="second", size=8)]
    encode(tmp_path / "out", FolderSource(root=str(folder)), two)
    for index in (1, 4):
        os.utime(folder / f"p{index:03d}.png", ns=(1, 10**18 + index))
    source = CountedFolder(root=str(folder), log=str(tmp_path / "reads"))
    assert todo(plan_of(tmp_path / "out", source, two)) == {"first": [], "second": []}
    assert source.reads() == ["p001", "p004"]  # each once, for both encoders


def test_a_changed_caption_is_encoded_again_and_its_picture_is_not(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, folder)
    (folder / "p004.txt").write_text("something else")
    assert left(tmp_path, folder) == {"mean": [], "bytes": [4]}
    run(tmp_path, folder)
    assert left(tmp_path, folder) == {"mean": [], "bytes": []}
    array = np.load(tmp_path / "out" / "bytes" / "p004.npy")
    assert array.tobytes().rstrip(b"\0") == b"something else"


def test_a_picture_without_a_caption_waits_for_one(tmp_path: Path, folder: Path) -> None:
    (folder / "p001.txt").unlink()
    run(tmp_path, folder)
    plan = plan_of(tmp_path / "out", FolderSource(root=str(folder)), ENCODERS)
    assert [(part.todo, part.done, len(part.uncaptioned)) for part in plan.encoders] == [(0, 6, 0), (0, 5, 1)]
    (folder / "p001.txt").write_text("at last")
    assert left(tmp_path, folder) == {"mean": [], "bytes": [1]}


def test_a_new_picture_and_a_lost_output_are_all_that_is_left(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, folder)
    paint(folder, 1, offset=9)
    (tmp_path / "out" / "mean" / "p000.npy").unlink()
    (tmp_path / "out" / "bytes" / "p005.npy").write_bytes(b"")
    assert left(tmp_path, folder) == {"mean": [0, 6], "bytes": [5, 6]}
    run(tmp_path, folder)
    for index in (0, 9):
        found = np.load(tmp_path / "out" / "mean" / f"p{index:03d}.npy")
        assert np.array_equal(found, expected_mean(folder / f"p{index:03d}.png", MeanColour()))


def test_a_quarantined_picture_is_held_until_its_bytes_change(tmp_path: Path, folder: Path) -> None:
    bad = folder / "p003.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:60])
    run(tmp_path, folder)
    assert set(Quarantine.read(tmp_path / "out").held("mean")) == {"p003"}
    plan = plan_of(tmp_path / "out", FolderSource(root=str(folder)), ENCODERS)
    assert todo(plan) == {"mean": [], "bytes": []}
    assert [(part.done, len(part.quarantined)) for part in plan.encoders] == [(5, 1), (6, 0)]
    assert plan.encoders[0].quarantined == {"p003"}

    os.utime(bad, ns=(1, 10**18))
    assert left(tmp_path, folder) == {"mean": [], "bytes": []}
    bad.write_bytes(whole)
    assert left(tmp_path, folder) == {"mean": [3], "bytes": []}
    run(tmp_path, folder)
    assert set(Quarantine.read(tmp_path / "out").held("mean")) == set()
    assert (tmp_path / "out" / "mean" / "p003.npy").exists()


def test_a_picture_that_could_not_be_read_is_held_until_it_can_be(tmp_path: Path, folder: Path) -> None:
    bad = folder / "p002.png"
    whole = bad.read_bytes()
    source = FolderSource(root=str(folder))
    bad.unlink()
    encode(tmp_path / "out", source, ENCODERS)
    assert Quarantine.read(tmp_path / "out").held("mean")["p002"].stage == "read"
    assert todo(plan_of(tmp_path / "out", source, ENCODERS)) == {"mean": [], "bytes": []}
    bad.write_bytes(whole)
    assert todo(plan_of(tmp_path / "out", source, ENCODERS)) == {"mean": [2], "bytes": []}


def test_an_encoder_holds_only_what_failed_for_it(tmp_path: Path, folder: Path) -> None:
    paint_plain(folder / "p001.png", 0)
    source = FolderSource(root=str(folder))
    encode(tmp_path / "out", source, [LogColour(name="log")])
    assert todo(plan_of(tmp_path / "out", source, [LogColour(name="log"), MeanColour()])) == {
        "log": [],
        "mean": ALL,
    }


def test_the_plan_is_an_upper_bound_of_what_is_written(tmp_path: Path, folder: Path) -> None:
    plan = encode(tmp_path / "out", FolderSource(root=str(folder)), ENCODERS)
    written: Counter[str] = Counter()
    for path in (tmp_path / "out").glob("*/*.npy"):
        written[path.parent.name] += path.stat().st_size
    for part in plan.encoders:
        assert 0 < written[part.encoder] <= part.bytes
    contract = MeanColour().contract(UPRIGHT)
    assert plan.encoders[0].bytes == 6 * bytes_per_item(MeanColour(), contract)


def test_equal_plans_have_equal_digests(tmp_path: Path, folder: Path) -> None:
    def digest() -> str:
        return plan_of(tmp_path / "out", FolderSource(root=str(folder)), ENCODERS).digest()

    before = digest()
    assert digest() == before
    paint(folder, 1, offset=7)
    assert digest() != before


def test_a_disk_without_room_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "there", 1)
    with pytest.raises(LatentkitError, match=r"no room in .*not/there: 1,024.0 TiB to write, .*iB free"):
        check_room(tmp_path / "not" / "there", 2**50)
    assert not (tmp_path / "not").exists()
