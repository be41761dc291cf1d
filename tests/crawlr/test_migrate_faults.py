"""A migration that is killed, interrupted or out of room loses nothing, and goes on to the same bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from encode_process import kill_points
from stage1_library import RECORDS, migrate, records, stage1, tree, write


def test_killed_or_interrupted_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def prepare(name: str) -> Path:
        work = tmp_path / name / "work"
        folder = work / "data/derived/vae_latents"
        folder.mkdir(parents=True)
        np.save(folder / "k1.npy", np.zeros((16, 8, 8), np.float16))
        write(work, b"{bad", *(stage1(f"k{7 * n % 11}", n) for n in range(11)), stage1("z", 0)[:3000])
        return work

    work = prepare("clean")
    first = migrate(work)
    assert first.returncode == 3, first.stderr
    assert first.changes is not None
    clean = tree(work)
    for point in kill_points(first.changes, 5):
        work = prepare(f"kill{point}")
        assert migrate(work, kill_at=point).returncode == -signal.SIGKILL
        assert len(records_anywhere(work)) == 11, f"killed at call {point}"
        assert migrate(work).returncode in (0, 3)
        assert tree(work) == clean, f"killed at call {point}"
    work = prepare("interrupted")
    before = (work / RECORDS).read_bytes()
    ended = migrate(work, interrupt_at=first.changes // 2)
    assert ended.returncode == 130, ended.stderr
    assert "the same command goes on" in ended.stderr
    assert (work / RECORDS).read_bytes() == before
    assert migrate(work).returncode == 3
    assert tree(work) == clean


def records_anywhere(work: Path) -> set[str]:
    """The ids that have their embedding, in their record or in a file."""
    found = set()
    for line in (work / RECORDS).read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        key = Path(record["image_path"]).stem
        if "dinov3_embedding" in record or (work / "data/derived/dinov3" / f"{key}.npy").exists():
            found.add(key)
    return found


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / RECORDS).parent.mkdir(parents=True)
    old = write(work, *(stage1(f"k{n:02d}", n, note="x" * 900) for n in range(20)))
    # 12 KiB: an array fits, the records do not.
    command = ["bash", "-c", 'ulimit -f 12; exec "$0" -m latentkit.migrate', sys.executable]
    ended = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"latentkit: cannot write {RECORDS}: ")
    assert "Traceback" not in ended.stderr
    assert (work / RECORDS).read_bytes() == old
    assert not [path for path in work.rglob("*") if path.name.startswith(".latentkit-")]
    assert migrate(work).returncode == 0
    assert len(records(work)) == 20
    assert (work / f"{RECORDS}.stage1").read_bytes() == old
