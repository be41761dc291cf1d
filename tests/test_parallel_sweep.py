"""A sweep whose launcher runs every job in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LAUNCHER = "hydra.launcher._target_=hydra_plugins.forking.ForkingLauncher"


@pytest.mark.parametrize(("limits", "status"), [("1,2", 0), ("0,2", 2), ("2,0", 2)])
def test_the_worst_run_s_exit_status_is_the_command_s(limits: str, status: int, tmp_path: Path) -> None:
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS / "launchers")))
    ended = subprocess.run(
        [sys.executable, "-m", "latentkit.encode", "-m", LAUNCHER, "dry_run=true", f"limit={limits}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
    )
    assert ended.returncode == status, ended.stderr
    assert ("limit=0" in ended.stderr) == (status == 2)
    assert "2 pictures" in ended.stdout + ended.stderr  # the other run was not held up
