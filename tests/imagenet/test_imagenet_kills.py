"""SIGKILL an encode from the archives; others go on, with other numbers of workers and processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from encode_process import encode, files, kill_points, run_verb, started, was_killed
from miniature_imagenet import WNIDS, Miniature, tar_bytes

POINTS = 2
"""Kills, each of a run of its own; `make torture` kills at every call."""

RUNS_OWN = {"summary.json", "run.json", "rates.json", "lock", "config.yaml"}
"""What legitimately differs between two runs: when they ran, how fast, with how many, into which folder."""

ARGUMENTS = (
    *("dataset=imagenet", "dataset.split=train", "weights=random", "flip=true", "shard_size=4"),
    *("encoders.sd_vae.size=32", "encoders.sd_vae.batch_size=3"),
)


@pytest.fixture
def work(miniature: Miniature) -> Path:
    """Three classes of five, prepared."""
    few = {wnid: dict(list(miniature.train[wnid].items())[:5]) for wnid in WNIDS[:3]}
    miniature.train_tar.write_bytes(tar_bytes({f"{wnid}.tar": tar_bytes(p) for wnid, p in few.items()}))
    work = miniature.folder.parent
    assert run_verb("prepare", "allow_variant=true", cwd=work).returncode == 0
    return work


@pytest.mark.slow
def test_killed_anywhere_others_go_on_to_the_same_bytes(work: Path) -> None:
    first = encode(*ARGUMENTS, "workers=1", "output_dir=clean", cwd=work)
    assert first.returncode == 0, first.stderr
    clean = files(work / "clean", RUNS_OWN)
    assert len([name for name in clean if name.endswith(".safetensors")]) == 4
    for number, point in enumerate(kill_points(first.changes, POINTS)):
        out = f"output_dir=out{point}"
        killed = encode(*ARGUMENTS, "workers=1", out, cwd=work, kill_at=point)
        assert was_killed(killed, point)
        again = encode(*ARGUMENTS, f"workers={2 * (number % 2)}", out, cwd=work)
        assert again.returncode == 0, again.stderr
        assert files(work / f"out{point}", RUNS_OWN) == clean, f"killed at call {point}"


@pytest.mark.slow
def test_two_processes_that_were_killed_are_finished_by_one(work: Path) -> None:
    job = ("encode", *ARGUMENTS, "shard_size=2")
    two = ("trainer.devices=2", "trainer.strategy=ddp", "workers=1", "output_dir=out")
    with started(*job, *two, cwd=work) as first:
        end = time.monotonic() + 60
        while not list((work / "out").glob("shard_*.safetensors")):
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.005)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (work / "out" / "manifest.json").exists()
    for out in ("out", "clean"):
        one = run_verb(*job, "workers=2", f"output_dir={out}", cwd=work)
        assert one.returncode == 0, one.stderr
    assert files(work / "out", RUNS_OWN) == files(work / "clean", RUNS_OWN)
    assert len(list((work / "out").glob("shard_*.safetensors"))) == 8
