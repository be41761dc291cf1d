"""The processes of one run: all of them end when one is stopped, fails or is lost."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterable
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from latentkit.errors import LatentkitError

_T = TypeVar("_T")


class Stoppable:
    """Batches that end early when asked to."""

    stopped = False
    """Whether `stop` was called."""

    def stop(self) -> None:
        """End after the batch in hand."""
        self.stopped = True


def predict(trainer: pl.Trainer, module: pl.LightningModule, batches: Iterable[Any], *, advice: str) -> None:
    """One pass, in every process of the run.

    Args:
        advice: what to do when another process is lost.

    Raises:
        LatentkitError: another process ended too early.
        KeyboardInterrupt: on a second Ctrl-C.
    """
    try:
        trainer.predict(module, dataloaders=batches, return_predictions=False)
    except SystemExit:  # how Lightning passes on a second Ctrl-C
        raise KeyboardInterrupt from None
    except BaseException as error:
        _signal_processes(trainer, signal.SIGKILL)  # they would wait for this one
        if _is_lost_process(error):
            raise LatentkitError(f"another process of this run ended too early; {advice}") from error
        raise


def stop(batches: Stoppable, trainer: pl.Trainer) -> None:
    """End the pass after the batch in hand, here and in the processes that this one started."""
    batches.stop()
    _signal_processes(trainer, signal.SIGTERM)


def all_gather(mine: _T) -> list[_T]:
    """In order of rank. Waits until every process has come here."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, mine)
    return values


def pass_title(title: str, trainer: pl.Trainer) -> str:
    """With this process's number, where there are several."""
    if trainer.world_size == 1:
        return title
    return f"{title} (process {trainer.global_rank + 1} of {trainer.world_size})"


def free_device_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because a process is gone: gloo has no error class of its own for it."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "by peer" in str(error) and "gloo" in str(error)
    )


def _signal_processes(trainer: pl.Trainer, number: signal.Signals) -> None:
    """To those that this process started; others have a launcher that sees to them."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(number)
