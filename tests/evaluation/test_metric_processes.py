"""Every metric over two real processes gives what it gives over one, however the pictures are divided."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from feeding import feed
from metric_processes import (
    GENERATED,
    REFERENCE,
    SHARES,
    feed_generated,
    known_statistics,
    new_metrics,
    summed,
    work,
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, dict[str, float]]]]:
    """What each of two processes found: division -> metric -> values."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method="forkserver")
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, float]]:
    """Metric -> values, from this process alone."""
    found = {f"{name} statistics": summed(arrays) for name, arrays in known_statistics().items()}
    for name, metric in new_metrics().items():
        feed_generated(metric, np.arange(len(GENERATED)))
        if metric.compares:
            feed(metric, "reference", REFERENCE)
        found[name] = metric.compute()
    return found


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("division", SHARES)
def test_two_processes_give_what_one_gives(
    processes: list[dict[str, dict[str, dict[str, float]]]],
    alone: dict[str, dict[str, float]],
    division: str,
    known: bool,
) -> None:
    for found in processes:
        values = found[f"{division}, {known}"]
        assert values.keys() == {name for name in alone if not (known and name.endswith("statistics"))}
        for name, value in values.items():
            sums = name.split()[0] in ("fid", "reconstruction")
            assert value == (pytest.approx(alone[name], rel=1e-10) if sums else alone[name]), name
