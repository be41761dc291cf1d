"""Two processes of one evaluation, over gloo: the numbers of one process, no hang, a clean end."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from encode_process import Running, started

HERE = Path(__file__).parent


def evaluation(out: Path, *arguments: str) -> AbstractContextManager[Running]:
    """The evaluation of `evaluation_process.py`, running."""
    out.mkdir()
    return started(str(HERE / "evaluation_process.py"), str(out), *arguments, cwd=out)


def evaluated(out: Path, *arguments: str) -> dict[str, Any]:
    with evaluation(out, *arguments) as child:
        ended = child.wait()
    assert ended.returncode == 0, ended.stderr
    return json.loads((out / "result.json").read_text())


def agree(ours: Any, theirs: Any) -> None:
    """The same names and keys, and numbers to float rounding."""
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for name in ours:
            agree(ours[name], theirs[name])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            agree(one, other)
    else:
        assert ours == (theirs if isinstance(theirs, str) else pytest.approx(theirs, rel=1e-6))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    evaluated(out, "27", "1")
    return out


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path, alone: Path) -> None:
    one, two = json.loads((alone / "result.json").read_text()), evaluated(tmp_path / "two", "27", "2")
    assert one["pictures"] == {"reference": 30, "generated": 27}
    assert {"worst", "median", "best"} == set(one["gallery"])
    assert one["values"]["inception_score"]["inception_score"] > 1.005
    agree(two, one)
    images = [
        {path.name: path.read_bytes() for path in (out / "images").iterdir()}
        for out in (alone, tmp_path / "two")
    ]
    assert len(images[0]) == 27
    assert images[0] == images[1]


def wait_for_pictures(out: Path, count: int) -> None:
    end = time.monotonic() + 300
    while len(list((out / "images").glob("*.png"))) < count:
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_does_not_hang(tmp_path: Path) -> None:
    with evaluation(tmp_path / "out", "400", "2", "0.2") as first:
        wait_for_pictures(tmp_path / "out", 4)
        (second,) = (
            child for child in psutil.Process(first.pid).children() if "LOCAL_RANK" in child.environ()
        )
        second.kill()
        ended = first.wait(60)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.slow
def test_ctrl_c_ends_both_processes_after_the_batch_in_hand(tmp_path: Path) -> None:
    with evaluation(tmp_path / "out", "400", "2", "0.2") as first:
        wait_for_pictures(tmp_path / "out", 4)
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
        ended = first.wait(60)
    assert ended.returncode == 130, ended.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["values"] == {}
    assert found["pictures"]["generated"] < 400


@pytest.mark.slow
def test_a_process_with_nothing_to_do_ends_cleanly(tmp_path: Path) -> None:
    found = evaluated(tmp_path / "out", "2", "3")
    assert found["pictures"] == {"reference": 5, "generated": 2}
    assert found["values"]["toy"] == {**found["values"]["toy"], "generated": 2, "reference": 5}
    assert found["values"]["inception_score"]["inception_score"] == pytest.approx(1)  # one picture a part
    assert [key for key, _ in found["gallery"]["best"]] in (["k00000", "k00001"], ["k00001", "k00000"])
