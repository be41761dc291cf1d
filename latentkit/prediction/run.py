"""Works a plan off: pass by pass, one Trainer for all, the store handed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import lightning.pytorch as pl
from lightning.pytorch.accelerators import CUDAAccelerator
from rich.console import Console

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.batches import BatchStream
from latentkit.prediction.decoding import worker_deaths_told
from latentkit.prediction.failures import FailureLimit
from latentkit.prediction.module import EncodingModule
from latentkit.prediction.plan import Plan, Unit
from latentkit.prediction.processes import free_device_memory, pass_title, predict, stop
from latentkit.prediction.progress import PassProgress
from latentkit.prediction.writer import Sink, StoreWriter, Tally, WriterThread
from latentkit.runtime.interrupt import Interrupts
from latentkit.sources.source import Source

_ADVICE = "what is done is kept, the same command goes on from here"


@dataclass
class RunResult:
    """What happened in this process.

    Attributes:
        interrupted: whether some process of the run was asked to stop before its end.
        notes: conversions -> pictures (``cmyk``, ``greyscale`` ...), over all processes.
        batch_sizes: encoder -> the batch size that fits in memory.
        encoded: encoder -> pictures, over all processes.
        seconds: over all passes, loading and compiling the networks included.
        rates: encoder -> pictures a second of its pass, all processes together.
        device: the device's name.
        peak_bytes: encoder -> device memory at its fullest during its pass; None on a CPU.
    """

    interrupted: bool = False
    notes: Counter[str] = field(default_factory=Counter)
    batch_sizes: dict[str, int] = field(default_factory=dict)
    encoded: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    peak_bytes: dict[str, int | None] = field(default_factory=dict)

    def add(self, module: EncodingModule, tally: Tally, seconds: float) -> None:
        """Take in a pass that has ended."""
        self.interrupted = tally.stopped
        self.notes |= tally.notes  # passes see the same pictures
        self.batch_sizes |= module.batch_sizes
        self.encoded += tally.encoded
        self.seconds += seconds
        self.rates |= {name: round(tally.encoded[name] / seconds, 3) for name in module.batch_sizes}
        self.device = module.device_name
        self.peak_bytes |= dict.fromkeys(module.batch_sizes, module.peak_bytes)


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
    progress_every: int | None = None,
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
        progress_every: pictures after which it says a line, where there is no terminal for a bar.

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
        already = {key for part in plan.encoders for key in part.quarantined}
        limit = FailureLimit(thread.put, len(source), max_failures, already)
        shares = {
            name: _share(part.units, trainer.global_rank, trainer.world_size) for name, part in work.items()
        }
        for name, share in shares.items():
            sink.begin(name, share, source)
        for together in passes:
            units = {encoder.name: shares[encoder.name] for encoder in together}
            total = sum(len(unit.indices) for of_encoder in units.values() for unit in of_encoder)
            title = pass_title(" + ".join(encoder.name for encoder in together), trainer)
            with PassProgress(title, total, len(together), console, progress_every) as progress:
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
                stop_all = partial(stop, stream, trainer)
                with Interrupts(stop_all, patient=trainer.global_rank > 0) as interrupts:
                    writer.begin_pass(stream, progress, interrupts)
                    with worker_deaths_told(workers):
                        predict(trainer, module, stream, advice=_ADVICE)
            result.add(module, writer.tally, progress.seconds)
            del module
            free_device_memory()
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
