"""Works a plan off: pass by pass, one Trainer for all, the store handed in."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import lightning.pytorch as pl
from rich.console import Console

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.batches import BatchStream
from latentkit.prediction.encoding import EncodingStep, StoreSink
from latentkit.prediction.failures import FailureLimit
from latentkit.prediction.loop import DIFFERENT_FILES, Loop, Pass, PassResult
from latentkit.prediction.plan import Outputs, Plan, Unit
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

    def add(self, ended: PassResult, batch_sizes: Mapping[str, int]) -> None:
        """Take in a pass that has ended."""
        self.interrupted = ended.interrupted
        self.notes |= ended.notes  # passes see the same pictures
        self.batch_sizes |= batch_sizes
        self.encoded += ended.pictures
        self.seconds += ended.seconds
        self.rates |= {name: round(ended.pictures[name] / ended.seconds, 3) for name in batch_sizes}
        self.device = ended.device
        self.peak_bytes |= dict.fromkeys(batch_sizes, ended.peak_bytes)


def run_plan(
    plan: Plan,
    source: Source,
    encoders: Sequence[Encoder],
    store: Outputs,
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
        store: takes results and failures, in plan order.
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
    with StoreSink(store) as sink:
        loop = Loop(
            make_trainer, advice=_ADVICE, workers=workers, console=console, progress_every=progress_every
        )
        already = {key for part in plan.encoders for key in part.quarantined}
        limit = FailureLimit(sink.put, len(source), max_failures, already)
        shares = {name: _share(part.units, loop.rank, loop.processes) for name, part in work.items()}
        for name, share in shares.items():
            store.begin(name, share, source)
        for together in passes:
            units = {encoder.name: shares[encoder.name] for encoder in together}
            notes: Counter[str] = Counter()
            step = EncodingStep(together, limit)
            ended = loop.run(
                Pass(
                    title=" + ".join(units),
                    total=sum(len(unit.indices) for of_encoder in units.values() for unit in of_encoder),
                    batches=BatchStream(
                        source,
                        together,
                        units,
                        fail=limit,
                        notice=notes.update,
                        workers=workers,
                        pin=loop.pin,
                    ),
                    step=step,
                    sink=sink,
                    agreed={DIFFERENT_FILES: plan.digest()},
                    repeats=len(together),
                    notes=notes,
                )
            )
            result.add(ended, step.batch_sizes)
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
