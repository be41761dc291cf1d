"""A sweep whose launcher runs every job in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from encode_process import run_verb

LAUNCHER = "hydra.launcher._target_=hydra_plugins.forking.ForkingLauncher"


@pytest.mark.parametrize(("limits", "status"), [("1,2", 0), ("0,2", 2), ("2,0", 2)])
def test_the_worst_run_s_exit_status_is_the_command_s(
    limits: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "launchers")
    work = tmp_path / "work"
    work.mkdir()
    ended = run_verb("encode", "-m", LAUNCHER, "dry_run=true", f"limit={limits}", cwd=work)
    assert ended.returncode == status, ended.stderr
    assert ("limit=0" in ended.stderr) == (status == 2)
    assert "2 pictures" in ended.stdout + ended.stderr  # the other run was not held up
