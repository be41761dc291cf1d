"""The one loop: batches through a step into a sink, pass by pass, all processes of a run together."""

import gc
import itertools
import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.accelerators import CUDAAccelerator
from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.prediction.decoding import worker_deaths_told
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport

_T = TypeVar("_T")
_Batch = TypeVar("_Batch")
_Result = TypeVar("_Result")

DIFFERENT_FILES = (
    "the processes of this run see different files: is output_dir, or the collection, not on a disk that all "
    "of them share?"
)


class Step(pl.LightningModule, ABC, Generic[_Batch, _Result]):
    """What is done with a batch. ``setup`` loads on the host the networks that the next pass needs."""

    @abstractmethod
    def forward(self, batch: _Batch) -> _Result | None:
        """The results of a batch; of the one before where computing overlaps with what follows."""

    def drain(self) -> _Result | None:
        """The results that are still to come when all batches have been seen."""
        return None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """A `Forward` does that."""
        return batch


@dataclass
class PassResult:
    """What a pass came to.

    Attributes:
        pictures: name -> how many, over all processes.
        notes: conversions (``cmyk``, ``greyscale`` ...) -> pictures, over all processes.
        interrupted: whether some process was asked to stop before the end.
        seconds: loading and compiling the networks included.
        device: the device's name.
        peak_bytes: device memory at its fullest, in this process; None on a CPU.
    """

    pictures: Counter[str]
    notes: Counter[str]
    interrupted: bool
    seconds: float = 0.0
    device: str = "cpu"
    peak_bytes: int | None = None


class Sink(ABC, Generic[_Result]):
    """Where the results of a pass go."""

    def begin(self, device: torch.device) -> None:
        """Hear where results will lie. Every process has joined by then; no batch has come yet."""

    @abstractmethod
    def take(self, result: _Result) -> Mapping[str, int]:
        """Take in the results of a batch; name -> how many pictures there were."""

    def flush(self) -> None:
        """Wait until all that was taken is safe."""

    def finish(self, result: PassResult) -> None:
        """Hear the end, which all processes have reached and flushed; collectives are in order."""


@dataclass
class Pass(Generic[_Batch, _Result]):
    """One way through a collection. Iterating gives its batches, until `stopped` is set.

    Attributes:
        title: what runs, e.g. ``dinov3 + flux_vae``.
        total: pictures of this process.
        batches: of this process.
        step, sink: what they go through.
        agreed: message -> what the processes must agree on, or the run ends with that message.
        repeats: how often the step is given each picture, for the progress report.
        notes: taken from the batches as they come.
        stopped: whether the pass was asked to end after the batch in hand.
    """

    title: str
    total: int
    batches: Iterable[_Batch]
    step: Step[_Batch, _Result]
    sink: Sink[_Result]
    agreed: Mapping[str, object]
    repeats: int = 1
    notes: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    def __iter__(self) -> Iterator[_Batch]:
        return itertools.takewhile(lambda _: not self.stopped, self.batches)


class Loop(pl.Callback):
    """Runs passes, one Trainer for all.

    Args:
        make_trainer: keyword arguments of ours -> Trainer.
        advice: what to do when another process of the run is lost.
        workers: decoding processes of this process.
        console: for the progress report.
        progress_every: pictures after which it says a line, where there is no terminal for a bar.
    """

    def __init__(
        self,
        make_trainer: Callable[..., pl.Trainer],
        *,
        advice: str,
        workers: int,
        console: Console,
        progress_every: int | None,
    ) -> None:
        self._advice, self.workers = advice, workers
        self._console, self._progress_every = console, progress_every
        self._trainer = make_trainer(
            callbacks=[self],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        )
        self.rank, self.processes = self._trainer.global_rank, self._trainer.world_size
        self.pin = isinstance(self._trainer.accelerator, CUDAAccelerator)

    def run(self, work: Pass[Any, Any]) -> PassResult:
        """One pass, in every process of the run.

        Raises:
            LatentkitError: a process of the run, or one that decodes, ended too early; or what a step or a
                sink raised.
            KeyboardInterrupt: on a second Ctrl-C.
        """
        title, pictures = work.title, work.total // work.repeats
        if self.processes > 1:
            title += f" (process {self.rank + 1} of {self.processes})"
        self._work, self._pictures = work, Counter[str]()
        with (
            ProgressReport(title, pictures, self._console, every=self._progress_every) as self._progress,
            Interrupts(self._stop, patient=self.rank > 0) as self._interrupts,
            worker_deaths_told(self.workers),
        ):
            self._predict()
        self._result.seconds = self._progress.seconds
        gc.collect()
        if self.pin:
            torch.cuda.empty_cache()
        return self._result

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is done before every process has joined with the same work."""
        self._interrupts.install()  # in place of Lightning's handler, in which the processes wait for another
        for message, mine in self._work.agreed.items():
            if trainer.strategy.broadcast(mine) != mine:
                raise LatentkitError(message)
        self._work.sink.begin(pl_module.device)
        if self.pin:
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *_: Any, **kwargs: Any
    ) -> None:
        """Hand on what a step returned."""
        self._take(outputs)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand on the rest, and wait until all is safe: on every process before any goes on."""
        self._take(self._work.step.drain())
        self._work.sink.flush()
        everyone = all_gather((self._pictures, self._work.notes, self._work.stopped))
        pictures, notes, stopped = zip(*everyone, strict=True)
        self._result = PassResult(sum(pictures, Counter()), sum(notes, Counter()), any(stopped))
        self._work.sink.finish(self._result)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the device, from which Lightning takes the networks away next."""
        if self.pin:
            self._result.device = torch.cuda.get_device_name(pl_module.device)
            self._result.peak_bytes = torch.cuda.max_memory_allocated(pl_module.device)

    def _take(self, result: Any) -> None:
        if result is not None:
            self._pictures.update(self._work.sink.take(result))
            self._progress.show(self._pictures.total() // self._work.repeats)

    def _predict(self) -> None:
        try:
            self._trainer.predict(self._work.step, dataloaders=self._work, return_predictions=False)
        except SystemExit:  # how Lightning passes on a second Ctrl-C
            raise KeyboardInterrupt from None
        except BaseException as error:
            self._signal_processes(signal.SIGKILL)  # they would wait for this one
            if _is_lost_process(error):
                raise LatentkitError(
                    f"another process of this run ended too early; {self._advice}"
                ) from error
            raise

    def _stop(self) -> None:
        """End the pass after the batch in hand, here and in the processes that this one started."""
        self._work.stopped = True
        self._signal_processes(signal.SIGTERM)

    def _signal_processes(self, number: signal.Signals) -> None:
        """To those that this process started; others have a launcher that sees to them."""
        launcher = self._trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(number)


def all_gather(mine: _T) -> list[_T]:
    """Every process's, in order of rank. Waits until all have come here."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, mine)
    return values


def _is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because a process is gone: gloo has no error class of its own for it."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "by peer" in str(error) and "gloo" in str(error)
    )
