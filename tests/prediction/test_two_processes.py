"""Two processes of one run, on the CPU over gloo: each key once, the bytes of one process, no hang."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors import safe_open
from small_runs import published, run_command, start_command, wait_for

TWO = ("trainer.devices=2", "trainer.strategy=ddp")


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    job = ("encoder=[dinov3,t5]", "store=shards", "shard_size=5", "limit=13")
    one, two = tmp_path / "one", tmp_path / "two"
    for root, processes in ((one, ()), (two, TWO)):
        done = run_command(root, *job, *processes)
        assert done.returncode == 0, done.stderr
    assert published(two) == published(one)

    keys: Counter[tuple[str, str]] = Counter()
    for path in two.glob("*/shard_*.safetensors"):
        with safe_open(path, "numpy") as shard:
            keys.update((path.parent.name, key) for key in json.loads(shard.metadata()["keys"]))
    assert len(keys) == 2 * 13
    assert set(keys.values()) == {1}
    summaries = [json.loads((root / "summary.json").read_bytes()) for root in (one, two)]
    assert summaries[0]["conversions"] == summaries[1]["conversions"]
    assert [part["done"] for part in summaries[1]["encoders"]] == [13, 13]


@pytest.mark.slow
def test_a_process_with_nothing_to_do_ends_cleanly(
    tmp_path: Path, job: tuple[str, ...], clean: dict[str, bytes]
) -> None:
    root = tmp_path / "out"
    done = run_command(root, *job, *TWO, "limit=1")
    assert done.returncode == 0, done.stderr
    arrays = {name: content for name, content in published(root).items() if name.endswith(".npy")}
    assert sorted(arrays) == ["bytes/demo_00_discs.npy", "mean/demo_00_discs.npy"]
    assert all(clean[name] == content for name, content in arrays.items())
    assert np.load(root / "mean" / "demo_00_discs.npy").shape == (3,)


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_does_not_hang(
    tmp_path: Path, job: tuple[str, ...], clean: dict[str, bytes]
) -> None:
    root = tmp_path / "out"
    with start_command(root, *job, *TWO) as first:
        journal = root / ".latentkit" / "journal"
        # The name of a segment ends in its writer's pid, a random number and the segment's number.
        wait_for(lambda: len({path.name.split("-")[-3] for path in journal.glob("mean.*.jsonl")}) == 2)
        (second,) = (
            child for child in psutil.Process(first.pid).children() if "LOCAL_RANK" in child.environ()
        )
        second.kill()
        ended = first.wait(60)
        assert ended.returncode != 0
        assert "Traceback" not in ended.stderr
    done = run_command(root, *job)
    assert done.returncode == 0, done.stderr
    assert published(root) == clean
