"""Between the loop and the store: results go to it from a thread of its own, and are counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter

from latentkit.errors import LatentkitError
from latentkit.prediction.background import BackgroundThread
from latentkit.prediction.batches import BatchStream
from latentkit.prediction.module import EncodingModule
from latentkit.prediction.plan import Unit
from latentkit.prediction.processes import all_gather
from latentkit.prediction.progress import PassProgress
from latentkit.prediction.results import Encoded, Failure
from latentkit.runtime.interrupt import Interrupts
from latentkit.sources.source import Source


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


class WriterThread(BackgroundThread[Encoded | Failure]):
    """Hands results to a sink in their order; `put`, `flush` and leaving it raise what the sink raised."""

    def __init__(self, sink: Sink) -> None:
        super().__init__("latentkit-writer")
        self._sink = sink

    def hand_over(self, results: Sequence[Encoded | Failure]) -> None:
        """Batches that follow each other go to the sink together."""
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

    def begin_pass(self, stream: BatchStream, progress: PassProgress, interrupts: Interrupts) -> None:
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
        self.tally = sum(all_gather(mine), Tally())

    def _take(self, encoded: Encoded | None) -> None:
        if encoded is not None:
            self._thread.put(encoded)
            self._progress.encoded(len(encoded.keys))
            self._encoded[encoded.encoder] += len(encoded.keys)
