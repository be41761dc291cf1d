"""kill -9 on the way: after a restart the output is that of a clean run, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_run import FailingStorage, Pictures, calls, contract, kill_at, killed, make, missing, run, tree

import latentkit
from latentkit.stores.storage import using

SCRIPT = Path(__file__).parents[1] / "store_run.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(latentkit.__file__).parent.parent)}


def forked(root: Path, kind: str, nth: int, **options: object) -> bool:
    """A run in a forked child that kills itself at the nth call; whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            kill_at(nth)
            run(root, kind, **options)  # type: ignore[arg-type]
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def again(root: Path, kind: str, **options: object) -> None:
    """A run that is not killed."""
    with using(FailingStorage()):
        run(root, kind, **options)  # type: ignore[arg-type]


@pytest.fixture(params=["npy", "shards"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_kill_anywhere_loses_nothing(tmp_path: Path, kind: str) -> None:
    total = calls(tmp_path / "clean", kind)
    clean = tree(tmp_path / "clean")
    step = max(1, total // 40)
    for nth in [*range(1, 20), *range(20, total - 25, step), *range(total - 25, total + 1)]:
        root = tmp_path / f"killed{nth}"
        assert killed(root, kind, nth)
        again(root, kind)
        assert tree(root) == clean, f"killed at call {nth} of {total}"
        shutil.rmtree(root)


def test_a_killed_process_loses_nothing(tmp_path: Path, kind: str) -> None:
    """SIGKILL: what `killed` stands for above."""
    total = calls(tmp_path / "clean", kind)
    for nth in (3, total // 2, total - 4):
        root = tmp_path / f"killed{nth}"
        assert forked(root, kind, nth)
        again(root, kind)
        assert tree(root) == tree(tmp_path / "clean"), f"killed at call {nth} of {total}"


def test_kills_of_the_restarts_too(tmp_path: Path, kind: str) -> None:
    again(tmp_path / "clean", kind)
    root = tmp_path / "killed"
    kills = 0
    for nth in range(5, 400, 3):
        if not killed(root, kind, nth):
            break
        kills += 1
    assert kills > 5
    assert tree(root) == tree(tmp_path / "clean")


def test_a_kill_while_changed_and_retried_pictures_are_encoded(tmp_path: Path, kind: str) -> None:
    changed = Pictures(55, edits={3: b"another picture", 40: b"and another"}, broken=(50,))

    def later(root: Path) -> dict[str, bytes]:
        again(root, kind, source=changed, retry=True)
        return tree(root)

    again(tmp_path / "before", kind)
    clean = later(shutil.copytree(tmp_path / "before", tmp_path / "clean"))
    for nth in range(1, 200, 9):
        root = shutil.copytree(tmp_path / "before", tmp_path / f"killed{nth}")
        killed(root, kind, nth, source=changed, retry=True)
        assert later(root) == clean, f"killed at call {nth}"


def test_a_kill_while_another_contract_overwrites(tmp_path: Path, kind: str) -> None:
    other = {name: contract(name, precision="tf32") for name in ("vae", "text")}

    def overwritten(root: Path) -> dict[str, bytes]:
        again(root, kind, overwrite=True, contracts=other)
        return tree(root)

    again(tmp_path / "before", kind)
    clean = overwritten(tmp_path / "clean")
    for nth in range(1, 90, 7):
        root = shutil.copytree(tmp_path / "before", tmp_path / f"killed{nth}")
        assert killed(root, kind, nth, overwrite=True, contracts=other)
        assert overwritten(root) == clean, f"killed at call {nth}"


def test_a_kill_from_outside_at_any_moment(tmp_path: Path, kind: str) -> None:
    again(tmp_path / "clean", kind)
    for delay in (0.02, 0.05, 0.08):
        root = tmp_path / f"killed{delay}"
        command = [sys.executable, str(SCRIPT), str(root), kind, "0"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        while child.poll() is None and not (root / ".latentkit" / "holder.json").exists():
            time.sleep(0.002)
        time.sleep(delay)
        child.kill()
        child.wait()
        again(root, kind)
        assert tree(root) == tree(tmp_path / "clean")


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    root, source = tmp_path / "killed", Pictures()
    left = [60]
    for nth in range(1, 400, 3):
        died = killed(root, "npy", nth)
        left.append(len(missing(make("npy", root), "vae", source)))
        if not died:
            break
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def test_a_manifest_is_not_complete_while_its_shards_change(tmp_path: Path) -> None:
    again(tmp_path, "shards")
    changed = Pictures(edits={20: b"other"})
    nth = 1
    while killed(tmp_path, "shards", nth, source=changed):
        manifest = json.loads((tmp_path / "vae" / "manifest.json").read_text())
        shard = (tmp_path / "vae" / "shard_00000001.safetensors").read_bytes()
        listed = manifest["shards"][1]["sha256"]
        assert not manifest["complete"] or hashlib.sha256(shard).hexdigest() == listed
        nth += 1
    assert nth > 10
