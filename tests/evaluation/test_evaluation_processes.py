"""Two processes of one evaluation, over gloo: the numbers of one process, no hang, a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import latentkit

HERE = Path(__file__).parent


@contextmanager
def started(out: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """An evaluation in a process group of its own; whatever is left of the group at the end is killed."""
    out.mkdir()
    paths = (Path(latentkit.__file__).parent.parent, HERE, HERE.parent)
    child = subprocess.Popen(
        [sys.executable, str(HERE / "evaluation_process.py"), str(out), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def evaluated(out: Path, *arguments: str) -> dict[str, Any]:
    with started(out, *arguments) as child:
        _, err = child.communicate()
        assert child.returncode == 0, err
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
    with started(tmp_path / "out", "400", "2", "0.2") as first:
        wait_for_pictures(tmp_path / "out", 4)
        (second,) = (
            child for child in psutil.Process(first.pid).children() if "LOCAL_RANK" in child.environ()
        )
        second.kill()
        _, err = first.communicate(timeout=60)
    assert first.returncode != 0
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.slow
def test_ctrl_c_ends_both_processes_after_the_batch_in_hand(tmp_path: Path) -> None:
    with started(tmp_path / "out", "400", "2", "0.2") as first:
        wait_for_pictures(tmp_path / "out", 4)
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
        _, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
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
