"""The run that interrupted and killed runs are held against."""

from __future__ import annotations

import pytest
from small_runs import published, run_command

JOB = ("encoder=[mean,bytes]", "workers=1", "dataset.pictures=50")


@pytest.fixture(scope="session")
def job() -> tuple[str, ...]:
    """Overrides of a run of some seconds: painting the pictures is slow."""
    return JOB


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What that run publishes when it is left alone."""
    root = tmp_path_factory.mktemp("clean") / "out"
    done = run_command(root, *JOB)
    assert done.returncode == 0, done.stderr
    return published(root)
