"""Works a plan off: pass by pass, one Trainer for all, the store handed in."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from rich.console import Console

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.batches import BatchStream
from latentkit.prediction.decoding import worker_deaths_told
from latentkit.prediction.failures import FailureLimit
from latentkit.prediction.interrupt import interruptible
from latentkit.prediction.module import EncodingModule
from latentkit.prediction.plan import Plan, Unit
from latentkit.prediction.progress import ProgressReport
from latentkit.prediction.writer import Sink, StoreWriter, WriterThread
from latentkit.sources.item import Source


@dataclass
class RunResult:
    """What happened in this process.

    Attributes:
        interrupted: whether the run was asked to stop before its end.
        notes: conversions -> pictures (``cmyk``, ``greyscale`` ...).
        batch_sizes: encoder -> the batch size that fits in memory.
        encoded: encoder -> pictures, over all processes.
        seconds: over all passes, loading and compiling the networks included.
        rates: encoder -> pictures a second of its pass, all processes together.
        device: the device's name.
        peak_bytes: device memory at its fullest; None on a CPU.
    """

    interrupted: bool = False
    notes: Counter[str] = field(default_factory=Counter)
    batch_sizes: dict[str, int] = field(default_factory=dict)
    encoded: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    peak_bytes: int | None = None

    def add(self, module: EncodingModule, stream: BatchStream, progress: ProgressReport) -> None:
        """Take in a pass that has ended."""
        self.interrupted = stream.stopped
        self.notes |= progress.notes  # passes see the same pictures
        self.batch_sizes |= module.batch_sizes
        self.seconds += progress.seconds
        if module.device.type == "cuda":
            self.device = torch.cuda.get_device_name(module.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(module.device)


def run_plan(
    plan: Plan,
    source: Source,
    encoders: Sequence[Encoder],
    sink: Sink,
    make_trainer: Callable[..., pl.Trainer],
    *,
    resident: str,
    max_failures: float,
    workers: int,
    console: Console,
) -> RunResult:
    """Encode what the plan says is left.

    Args:
        plan: the same on every process of the run.
        sink: takes results and failures, in plan order.
        make_trainer: keyword arguments of ours -> Trainer.
        resident: ``one`` encoder in device memory at a time, each with a pass of its own, or ``all`` in one
            pass that decodes every picture once.
        max_failures: share of the collection that may fail.
        workers: decoding processes of this process.
        console: for the progress report.

    Raises:
        TooManyFailuresError, LatentkitError: what is published stays published.
    """
    work = {part.encoder: part for part in plan.encoders}
    busy = [encoder for encoder in encoders if work[encoder.name].todo]
    passes = [busy] if resident == "all" and busy else [[encoder] for encoder in busy]
    result = RunResult()
    with WriterThread(sink) as thread:
        writer = StoreWriter(thread, plan.digest())
        trainer = make_trainer(
            callbacks=[writer],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        )
        already = max((part.held for part in plan.encoders), default=0)
        limit = FailureLimit(thread.put, len(source), max_failures, already)
        shares = {
            name: _share(part.units, trainer.global_rank, trainer.world_size) for name, part in work.items()
        }
        for name, share in shares.items():
            sink.begin(name, share, source)
        for together in passes:
            units = {encoder.name: shares[encoder.name] for encoder in together}
            total = sum(len(unit.indices) for of_encoder in units.values() for unit in of_encoder)
            with ProgressReport(_title(together, trainer), total, len(together), console) as progress:
                module = EncodingModule(together, limit)
                stream = BatchStream(
                    source,
                    together,
                    units,
                    fail=limit,
                    notice=progress.note,
                    workers=workers,
                    pin=isinstance(trainer.accelerator, CUDAAccelerator),
                )
                writer.encoded = progress.encoded
                with interruptible(stream.stop), worker_deaths_told(workers):
                    _predict(trainer, module, stream)
            result.add(module, stream, progress)
            result.encoded = writer.totals
            result.rates |= {
                encoder.name: round(writer.totals[encoder.name] / progress.seconds, 3) for encoder in together
            }
            del module
            _free_device_memory()
            if result.interrupted:
                break
    return result


def _share(units: Sequence[Unit], rank: int, processes: int) -> list[Unit]:
    """This process's part: whole units where they are atomic, else every `processes`-th picture of each."""
    return [
        unit if unit.atomic else Unit(unit.id, unit.indices[rank::processes], atomic=False)
        for unit in units
        if not unit.atomic or unit.id % processes == rank
    ]


def _title(together: Sequence[Encoder], trainer: pl.Trainer) -> str:
    title = " + ".join(encoder.name for encoder in together)
    if trainer.world_size > 1:
        title += f" (process {trainer.global_rank + 1} of {trainer.world_size})"
    return title


def _predict(trainer: pl.Trainer, module: EncodingModule, stream: BatchStream) -> None:
    try:
        trainer.predict(module, dataloaders=stream, return_predictions=False)
    except SystemExit:  # how Lightning passes on a second Ctrl-C
        raise KeyboardInterrupt from None


def _free_device_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
