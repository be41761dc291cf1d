"""Between the loop and the disk: a bounded queue and one writer thread, whose errors surface in the loop."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.callbacks import BasePredictionWriter

from latentkit.errors import LatentkitError
from latentkit.interrupt import Interrupts
from latentkit.prediction.batches import BatchStream
from latentkit.prediction.module import EncodingModule
from latentkit.prediction.plan import Unit
from latentkit.prediction.progress import PassProgress
from latentkit.prediction.results import Encoded, Failure
from latentkit.sources.item import Source

BATCHES_IN_FLIGHT = 8


class Sink(Protocol):
    """Where results go: a store."""

    def begin(self, encoder: str, units: Sequence[Unit], source: Source) -> None:
        """Hear what this process will write."""
        ...

    def write(self, *batches: Encoded) -> int:
        """Publish batches, together where that is quicker; the bytes written."""
        ...

    def fail(self, failure: Failure) -> None:
        """Put a picture into the quarantine ledger."""
        ...


class WriterThread:
    """Hands results to a sink in their order, from a thread of its own. A context manager.

    All batches that are waiting are handed over at once: syncing many files takes hardly longer than one. The
    queue is bounded: when the disk is slower than the device, the loop waits instead of filling memory.
    `put`, `flush` and leaving the context raise what the sink raised.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: queue.Queue[Encoded | Failure | None] = queue.Queue(BATCHES_IN_FLIGHT)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="latentkit-writer", daemon=True)

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, result: Encoded | Failure) -> None:
        """Queue a result; waits while the queue is full."""
        self._raise()
        self._queue.put(result)

    def flush(self) -> None:
        """Wait until everything that was put is published."""
        self._queue.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        ended = False
        while not ended:
            results = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(results) < BATCHES_IN_FLIGHT:
                    results.append(self._queue.get_nowait())
            ended = None in results
            try:
                # After an error the queue is still emptied, so that the loop never blocks on a dead writer.
                if self._error is None:
                    self._hand_over([result for result in results if result is not None])
            except BaseException as error:
                self._error = error
            finally:
                for _ in results:
                    self._queue.task_done()

    def _hand_over(self, results: Sequence[Encoded | Failure]) -> None:
        for failed, run in itertools.groupby(results, key=lambda result: isinstance(result, Failure)):
            if failed:
                for failure in run:
                    assert isinstance(failure, Failure)
                    self._sink.fail(failure)
            else:
                self._sink.write(*(batch for batch in run if isinstance(batch, Encoded) and batch.keys))


@dataclass(frozen=True)
class Tally:
    """What one pass came to.

    Attributes:
        encoded: encoder -> pictures.
        notes: conversions -> pictures.
        stopped: whether some process was asked to stop.
    """

    encoded: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.encoded + other.encoded, self.notes + other.notes, self.stopped or other.stopped)


class StoreWriter(BasePredictionWriter):
    """Lightning's writer, batch by batch.

    Args:
        thread: takes the results.
        digest: of the plan; processes of one run that disagree about it stop before they begin.

    Attributes:
        tally: of the pass that ended last, over all processes.
    """

    def __init__(self, thread: WriterThread, digest: str) -> None:
        super().__init__("batch")
        self._thread = thread
        self._digest = digest
        self.tally = Tally()

    def attend(self, stream: BatchStream, progress: PassProgress, interrupts: Interrupts) -> None:
        """Turn to the next pass; `progress` will be told of every result."""
        self._stream = stream
        self._progress = progress
        self._interrupts = interrupts
        self._encoded: Counter[str] = Counter()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is written before every process has joined with the same plan."""
        self._interrupts.install()  # in place of Lightning's handler, in which the processes wait for another
        if trainer.strategy.broadcast(self._digest) != self._digest:
            raise LatentkitError(
                "the processes of this run see different files: is output_dir, or the collection, "
                "not on a disk that all of them share?"
            )

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Encoded | None,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Queue what a step returned."""
        self._take(prediction)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Queue the last batch, and wait until all is published: on every process before any goes on."""
        assert isinstance(pl_module, EncodingModule)
        self._take(pl_module.drain())
        self._thread.flush()
        mine = Tally(self._encoded, self._progress.notes, self._stream.stopped)
        self.tally = sum(_of_every_process(mine), Tally())

    def _take(self, encoded: Encoded | None) -> None:
        if encoded is not None:
            self._thread.put(encoded)
            self._progress.encoded(len(encoded.keys))
            self._encoded[encoded.encoder] += len(encoded.keys)


def _of_every_process(mine: Tally) -> list[Tally]:
    """In order of rank. Waits until every process has come here."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    tallies: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(tallies, mine)
    return tallies
