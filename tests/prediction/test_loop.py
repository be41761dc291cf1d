"""The loop itself: what a step returns reaches the sink, in order, and is safe at the end."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.prediction.loop import DIFFERENT_FILES, Loop, Pass, PassResult, Sink, Step


class Lagging(Step[int, int]):
    """Gives each number twice as large, one batch late."""

    def __init__(self) -> None:
        super().__init__()
        self.held: int | None = None

    def forward(self, batch: int) -> int | None:
        before, self.held = self.held, 2 * batch
        return before

    def drain(self) -> int | None:
        return self.held


class Kept(Sink[int]):
    """Says what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, device: torch.device) -> None:
        self.told.append(device.type)

    def take(self, result: int) -> Mapping[str, int]:
        self.told.append(result)
        return {"even": 3}

    def flush(self) -> None:
        self.told.append("flush")

    def finish(self, result: PassResult) -> None:
        self.told.append(result.pictures.total())


def loop(console: Console) -> Loop:
    trainer = partial(pl.Trainer, accelerator="cpu", devices=1)
    return Loop(trainer, advice="try again", workers=0, console=console, progress_every=1)


def test_what_steps_return_reaches_the_sink_and_is_counted() -> None:
    console, sink = Console(file=io.StringIO()), Kept()
    work = Pass("toy", 9, [1, 2, 3], Lagging(), sink, {}, repeats=3, notes=Counter(grey=2))
    result = loop(console).run(work)
    assert sink.told == ["cpu", 2, 4, 6, "flush", 9]
    assert (result.pictures, result.notes) == ({"even": 9}, {"grey": 2})
    assert (result.interrupted, result.device, result.peak_bytes) == (False, "cpu", None)
    assert result.seconds > 0
    assert "toy: 3 pictures in" in console.file.getvalue()  # each was given three times


def test_a_pass_can_be_stopped_and_the_next_goes_on() -> None:
    sink = Kept()
    runner = loop(Console(quiet=True))

    def batches() -> Iterator[int]:
        yield 1
        runner._stop()
        yield 2

    result = runner.run(Pass("toy", 9, batches(), Lagging(), sink, {}))
    assert result.interrupted
    assert sink.told == ["cpu", 2, "flush", 3]
    assert not runner.run(Pass("toy", 3, [1], Lagging(), Kept(), {})).interrupted


def test_processes_that_disagree_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, sink = loop(Console(quiet=True)), Kept()
    strategy = type(runner._trainer.strategy)
    monkeypatch.setattr(strategy, "broadcast", lambda self, mine, src=0: "the first process's")
    with pytest.raises(LatentkitError, match="see different files"):
        runner.run(Pass("toy", 3, [1], Lagging(), sink, {DIFFERENT_FILES: "mine"}))
    assert sink.told == []
