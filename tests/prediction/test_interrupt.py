"""Ctrl-C and SIGTERM, sent to the command as a terminal, a scheduler or a user sends them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_runs import published, run_command, start_command, wait_for

from latentkit.runtime.interrupt import Interrupts

TWO = ("trainer.devices=2", "trainer.strategy=ddp")


def encoded(root: Path) -> int:
    return sum(1 for _ in (root / "mean").glob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_group", "processes"),
    [
        pytest.param(signal.SIGINT, True, (), id="Ctrl-C on a terminal"),
        pytest.param(signal.SIGTERM, True, (), id="a scheduler"),
        pytest.param(signal.SIGTERM, True, TWO, id="a scheduler, two processes"),
        pytest.param(signal.SIGTERM, False, TWO, id="kill, two processes"),
    ],
)
def test_an_interrupted_run_says_so_and_goes_on_later(
    tmp_path: Path,
    job: tuple[str, ...],
    clean: dict[str, bytes],
    number: signal.Signals,
    to_group: bool,
    processes: tuple[str, ...],
) -> None:
    root = tmp_path / "out"
    with start_command(root, *job, *processes) as child:
        wait_for(lambda: encoded(root) >= 10)
        (os.killpg if to_group else os.kill)(child.pid, number)
        ended = child.wait(60)
        assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "interrupted with" in ended.stderr
    assert "goes on from here" in ended.stderr
    assert 10 <= encoded(root) < 50
    assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]
    assert not (root / ".latentkit" / "holder.json").exists()

    done = run_command(root, *job)
    assert done.returncode == 0, done.stderr
    assert published(root) == clean


@pytest.mark.slow
def test_a_shard_that_an_interruption_kept_from_being_whole_is_left(tmp_path: Path) -> None:
    root = tmp_path / "out"
    shards = ("encoder=mean", "workers=1", "dataset.pictures=80", "store=shards", "shard_size=30")
    with start_command(root, *shards) as child:
        wait_for(lambda: (root / "mean" / "shard_00000000.safetensors").exists())
        os.kill(child.pid, signal.SIGINT)
        ended = child.wait(60)
        assert ended.returncode == 130, ended.stderr
    there = sum(
        len(load_file(path)["labels"]) for path in sorted((root / "mean").glob("shard_*.safetensors"))
    )
    (told,) = json.loads((root / "summary.json").read_text())["encoders"]
    assert there in (30, 60)
    assert (told["done"], told["left"]) == (there, 80 - there)
    assert f"interrupted with {80 - there} left" in ended.stderr


@pytest.fixture
def stops() -> list[bool]:
    return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals, stops: list[bool]) -> None:
    before = signal.getsignal(number)
    with Interrupts(lambda: stops.append(True)):
        os.kill(os.getpid(), number)
        assert len(stops) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert len(stops) == 1
    assert signal.getsignal(number) is before


def test_a_process_that_another_one_started_is_patient(stops: list[bool]) -> None:
    with Interrupts(lambda: stops.append(True), patient=True):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert len(stops) == 3


def test_signals_that_were_taken_away_are_taken_back(stops: list[bool]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts(lambda: stops.append(True)) as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interrupts.install()
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(stops) == 1
    assert signal.getsignal(signal.SIGTERM) is before
