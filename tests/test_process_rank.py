"""Which of a run's processes this one is: two that took themselves for one would write one journal."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest

from latentkit.runtime.device import process_rank

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_NTASKS", "WORLD_SIZE")


def rank(monkeypatch: pytest.MonkeyPatch, devices: Any, **places: int) -> int:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    return process_rank(devices)


@pytest.mark.parametrize(
    ("devices", "places", "expected"),
    [
        (1, {}, 0),
        (1, {"NODE_RANK": 1}, 1),
        (4, {"NODE_RANK": 2}, 8),
        (4, {"NODE_RANK": 2, "LOCAL_RANK": 3}, 11),
        ("4", {"GROUP_RANK": 1, "LOCAL_RANK": 1}, 5),
        ([0, 2], {"NODE_RANK": 1, "LOCAL_RANK": 1}, 3),
        ("0,2", {"NODE_RANK": 1}, 2),
        (2, {"RANK": 5, "LOCAL_RANK": 1, "NODE_RANK": 0}, 5),
        (2, {"SLURM_PROCID": 3}, 3),
        (2, {"SLURM_PROCID": 3, "LOCAL_RANK": 1}, 3),
        (2, {"SLURM_PROCID": 0, "LOCAL_RANK": 1, "NODE_RANK": 0}, 1),
    ],
)
def test_a_process_knows_its_number(
    devices: Any, places: dict[str, int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rank(monkeypatch, devices, **places) == expected


@pytest.mark.parametrize(("node", "local"), [(0, 1), (1, 0), (1, 1)])
def test_lightning_counts_the_same(node: int, local: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = rank(monkeypatch, 2, NODE_RANK=node, LOCAL_RANK=local)
    trainer = pl.Trainer(accelerator="cpu", devices=2, num_nodes=2, strategy="ddp", logger=False)
    assert trainer.global_rank == ours
