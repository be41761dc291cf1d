"""Works a plan off, pass by pass: one batch of one encoder a step, nothing lost, into a store."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from torch import nn

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.background import BackgroundThread
from latentkit.prediction.batches import Batch, BatchStream
from latentkit.prediction.loop import DIFFERENT_FILES, Loop, Pass, PassResult, Sink, Step
from latentkit.prediction.plan import Outputs, Plan, Unit
from latentkit.prediction.results import Encoded, Failure, FailureLimit
from latentkit.runtime.forward import Forward, Launched
from latentkit.sources.source import Source


class EncodingStep(Step[Batch, Encoded]):
    """Out of memory and numbers that are not finite cost pictures, never the run.

    A step returns the results of the batch before, so that a GPU computes one batch while the host takes over
    the last; `drain` gives the rest at the end.

    Args:
        encoders: those of this pass.
        fail: told of each picture that could not be encoded.
    """

    def __init__(self, encoders: Sequence[Encoder], fail: Callable[[Failure], None]) -> None:
        super().__init__()
        self._encoders = {encoder.name: encoder for encoder in encoders}
        self._fail = fail
        self._launched: tuple[Batch, Launched] | None = None
        self.networks = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        for name, each in self._encoders.items():
            self.networks[name] = Forward(
                each.load(), each.precision, compiled=each.compile, shapes_vary=each.shapes_vary, to_host=True
            )

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Encoder -> the largest batch that has not run out of memory so far."""
        fits = {name: cast(Forward, network).fits for name, network in self.networks.items()}
        return {name: min(self._encoders[name].batch_size, fit) for name, fit in fits.items()}

    def forward(self, batch: Batch) -> Encoded | None:
        size = self._encoders[batch.encoder].batch_size
        launched = self.networks[batch.encoder](batch.tensors, pad_to=size)
        before = self.drain()
        self._launched = batch, launched
        return before

    def drain(self) -> Encoded | None:
        before, self._launched = self._launched, None
        return self._landed(*before) if before else None

    def _landed(self, batch: Batch, launched: Launched) -> Encoded:
        """What has become of a batch; what has no results is quarantined. No NaN passes here."""
        outcome = launched.result()
        bad = dict.fromkeys(outcome.lost, "out of device memory, even alone") | dict.fromkeys(
            outcome.unfinite, "not finite in the stored type, also when computed in float32"
        )
        name = batch.encoder
        for row, reason in bad.items():
            index, key, source = batch.indices[row], batch.keys[row], batch.sources[row]
            self._fail(Failure(index, key, "encode", f"{name}: {reason}", (name,), source))
        kept = [row for row in range(len(batch.keys)) if row not in bad]
        return Encoded(
            encoder=name,
            indices=[batch.indices[row] for row in kept],
            keys=[batch.keys[row] for row in kept],
            arrays={
                output: np.take(values.numpy(), kept, 0) if bad else values.numpy()
                for output, values in outcome.outputs.items()
            },
            facts=[batch.facts[row] for row in kept],
            sources=[batch.sources[row] for row in kept],
        )


class StoreSink(BackgroundThread[Encoded | Failure], Sink[Encoded]):
    """Hands results and failures to a store in their order, in a thread of its own. A context manager."""

    def __init__(self, store: Outputs) -> None:
        super().__init__("latentkit-writer", self._write)
        self._store = store

    def take(self, result: Encoded) -> Mapping[str, int]:
        if result.keys:
            self.put(result)
        return {result.encoder: len(result.keys)}

    def _write(self, results: Sequence[Any]) -> None:
        """Batches that follow each other go to the store together."""
        for kind, run in itertools.groupby(results, key=type):
            if kind is Failure:
                for failure in run:
                    self._store.fail(failure)
            else:
                self._store.write(*run)


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
    loop: Loop,
    *,
    resident: str,
    max_failures: float,
) -> RunResult:
    """Encode what the plan says is left.

    Args:
        plan: the same on every process of the run.
        store: takes results and failures, in plan order.
        loop: runs the passes.
        resident: ``one`` encoder in device memory at a time, each with a pass of its own, or ``all`` in one
            pass that decodes every picture once.
        max_failures: share of the collection that may fail.

    Raises:
        TooManyFailuresError, LatentkitError: what is published stays published.
    """
    work = {part.encoder: part for part in plan.encoders}
    busy = [encoder for encoder in encoders if work[encoder.name].todo]
    passes = [busy] if resident == "all" and busy else [[encoder] for encoder in busy]
    result = RunResult()
    with StoreSink(store) as sink:
        already = {key for part in plan.encoders for key in part.quarantined}
        limit = FailureLimit(sink.put, len(source), max_failures, already)
        shares = {name: _share(part.units, loop.rank, loop.processes) for name, part in work.items()}
        for name, share in shares.items():
            store.begin(name, share, source)
        for together in passes:
            units = {encoder.name: shares[encoder.name] for encoder in together}
            notes: Counter[str] = Counter()
            title = " + ".join(units)
            total = sum(len(unit.indices) for share in units.values() for unit in share)
            batches = BatchStream(source, together, units, limit, notes.update, loop.workers, loop.pin)
            step, agreed = EncodingStep(together, limit), {DIFFERENT_FILES: plan.digest()}
            ended = loop.run(Pass(title, total, batches, step, sink, agreed, len(together), notes))
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
