"""SIGKILL an encode from the archives; others go on, with other numbers of workers and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from encode_process import encode, files, kill_points, run_verb, was_killed
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
    def started(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "latentkit.encode", *ARGUMENTS, "shard_size=2", *arguments],
            cwd=work,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # how many threads add up decides the last bit
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    two = started("trainer.devices=2", "trainer.strategy=ddp", "workers=1", "output_dir=out")
    while not list((work / "out").glob("shard_*.safetensors")):
        assert two.poll() is None
        time.sleep(0.005)
    os.killpg(two.pid, signal.SIGKILL)
    two.communicate(timeout=60)
    assert not (work / "out" / "manifest.json").exists()
    for out in ("out", "clean"):
        one = started("workers=2", f"output_dir={out}")
        _, err = one.communicate(timeout=180)
        assert one.returncode == 0, err
    assert files(work / "out", RUNS_OWN) == files(work / "clean", RUNS_OWN)
    assert len(list((work / "out").glob("shard_*.safetensors"))) == 8
