"""Whole runs over small collections, in this process or as the command that a user types."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from encode_process import Ended, Running, run_verb, started
from rich.console import Console

from latentkit.encoders import Encoder
from latentkit.pixels import Pillow
from latentkit.prediction.batches import Batch, BatchStream
from latentkit.prediction.encoding import EncodingStep, RunResult, run_plan
from latentkit.prediction.loop import Loop
from latentkit.prediction.plan import Outputs, Plan, Unit, make_plan
from latentkit.prediction.results import Encoded, Failure
from latentkit.sources.source import Source
from latentkit.stores import NpyStore, Quarantine, Store

QUIET = Console(quiet=True)
HERE = Path(__file__).parent
CPU = partial(pl.Trainer, accelerator="cpu", devices=1)


class Collected:
    """A store that keeps what it is given."""

    def __init__(self) -> None:
        self.encoded: list[Encoded] = []
        self.failures: list[Failure] = []

    def begin(self, encoder: str, units: Sequence[Unit], source: Source) -> None:
        """Nothing to prepare."""

    def write(self, *batches: Encoded) -> int:
        self.encoded.extend(batches)
        return 0

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)

    def keys(self, encoder: str) -> list[str]:
        """In the order of writing."""
        return [key for part in self.encoded if part.encoder == encoder for key in part.keys]

    def arrays(self, encoder: str) -> dict[str, dict[str, np.ndarray]]:
        """Key -> output name -> array."""
        return {
            key: {name: array[row] for name, array in part.arrays.items()}
            for part in self.encoded
            if part.encoder == encoder
            for row, key in enumerate(part.keys)
        }


def units(*parts: Sequence[int]) -> list[Unit]:
    """Units 0, 1, ... of these indices."""
    return [Unit(number, np.array(part, np.int64), atomic=True) for number, part in enumerate(parts)]


def stream(
    source: Source,
    work: Sequence[tuple[Encoder, Sequence[Unit]]],
    *,
    workers: int = 0,
    fail: Callable[[Failure], None] | None = None,
    notice: Callable[[tuple[str, ...]], None] = lambda notes: None,
) -> BatchStream:
    """The batches of a pass; a picture that fails is an error unless `fail` takes it."""

    def unexpected(failure: Failure) -> None:
        raise AssertionError(failure)

    return BatchStream(
        source,
        [encoder for encoder, _ in work],
        {encoder.name: of_encoder for encoder, of_encoder in work},
        fail=fail or unexpected,
        notice=notice,
        workers=workers,
        pin=False,
    )


def through_step(step: EncodingStep, batches: Sequence[Batch] | BatchStream, sink: Collected) -> None:
    """Every batch through the step, as the loop does it."""
    if not step.networks:
        step.setup("predict")
    with torch.inference_mode():
        for batch in batches:
            if (encoded := step(batch)) is not None:
                sink.write(encoded)
        if (encoded := step.drain()) is not None:
            sink.write(encoded)


def plan_of(root: Path, source: Source, encoders: Sequence[Encoder], store: Store | None = None) -> Plan:
    """What is left to do under `root`."""
    contracts = {encoder.name: encoder.contract(Pillow(source.orient, source.strict)) for encoder in encoders}
    ledger = Quarantine.read(root)
    held = {name: {key: entry.source for key, entry in ledger.held(name).items()} for name in contracts}
    return make_plan(source, encoders, contracts, store or NpyStore(root=str(root)), held)


def run_into(
    sink: Outputs, source: Source, encoders: Sequence[Encoder], plan: Plan, **options: object
) -> RunResult:
    """`run_plan` on a CPU, one process."""
    of_loop: dict[str, object] = {"workers": 0, "console": QUIET, "progress_every": None}
    of_loop |= {name: options.pop(name) for name in of_loop.keys() & options}
    loop = Loop(CPU, advice="the same command goes on from here", **of_loop)  # type: ignore[arg-type]
    settings: dict[str, object] = {"resident": "all", "max_failures": 0.5}
    return run_plan(plan, source, encoders, sink, loop, **(settings | options))  # type: ignore[arg-type]


def whole_plan(source: Source, encoders: Sequence[Encoder], root: Path) -> Plan:
    """Everything is left to do."""
    return plan_of(root / "nothing-there", source, encoders)


def encode(root: Path, source: Source, encoders: Sequence[Encoder], **options: object) -> Plan:
    """Plan, encode and publish as `.npy`; the plan that was carried out."""
    store = NpyStore(root=str(root))
    store.open({encoder.name: encoder.contract(Pillow(source.orient, source.strict)) for encoder in encoders})
    plan = plan_of(root, source, encoders, store)
    try:
        run_into(store, source, encoders, plan, **options)
    finally:
        store.finish(source, complete=True)
    return plan


def todo(plan: Plan) -> dict[str, list[int]]:
    """Encoder -> the indices that are left."""
    return {
        part.encoder: [int(index) for unit in part.units for index in unit.indices] for part in plan.encoders
    }


def run_command(root: Path, *overrides: str) -> Ended:
    """The command that encodes the demo into `root` on the CPU, to its end."""
    return run_verb(*_command(root, *overrides), cwd=root.parent)


def start_command(root: Path, *overrides: str) -> AbstractContextManager[Running]:
    """The same, which goes on while it runs."""
    return started(*_command(root, *overrides), cwd=root.parent)


def _command(root: Path, *overrides: str) -> tuple[str, ...]:
    conf = ("--config-dir", str(HERE / "conf"))
    return ("encode", *conf, "trainer=cpu", "vram=low", f"output_dir={root}", *overrides)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Until it holds; AssertionError when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def published(root: Path) -> dict[str, bytes]:
    """What users read of an output, by name: arrays, shards, contracts, manifests, records and ledgers.

    Left out is what tells of the run and not of the output: times, devices, versions, the configuration.
    """
    of_the_run = (
        "summary.json",
        *(f".latentkit/{name}" for name in ("run.json", "config.yaml", "rates.json")),
    )
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    found = {name: path.read_bytes() for name, path in files.items() if name not in of_the_run}
    if "quarantine.jsonl" in found:
        found["quarantine.jsonl"] = re.sub(rb'"time": "[^"]*"', b'"time": ""', found["quarantine.jsonl"])
    return found
