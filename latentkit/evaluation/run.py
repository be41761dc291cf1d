"""Takes the metrics over the reference and the generated set, one Trainer for both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.accelerators import CUDAAccelerator
from rich.console import Console

from latentkit.encoders import LatentDecoder
from latentkit.errors import UsageError
from latentkit.evaluation.collector import Collector
from latentkit.evaluation.comparability import Size
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.evaluation.gallery import GallerySearch
from latentkit.evaluation.metrics.metric import ORIGINALS, EvaluationMetric, Side
from latentkit.evaluation.module import EvaluationModule
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.saving import PictureFolder
from latentkit.evaluation.stream import PictureStream
from latentkit.prediction.decoding import worker_deaths_told
from latentkit.prediction.processes import free_device_memory, pass_title, predict, stop
from latentkit.report.reconstructions import Reconstruction
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport

SHOWN = 6
"""Pictures a row of the gallery."""


@dataclass(frozen=True)
class Pass:
    """One way through a set.

    Attributes:
        pictures: over all processes.
        seconds: loading and compiling the networks included.
        batch_size: that fits in memory, in this process.
        peak_bytes: device memory at its fullest, in this process; None on a CPU.
    """

    pictures: int
    seconds: float
    batch_size: int
    peak_bytes: int | None


@dataclass
class EvaluationResult:
    """What came out. Values, statistics and the gallery are known to process 0 alone.

    Attributes:
        interrupted: whether some process was asked to stop before the end; there are no values then.
        values: metric -> name -> value.
        failures: metric -> why it could not be computed.
        gallery: ``worst``, ``median`` and ``best`` -> reconstructions, the lowest PSNR first; empty when no
            metric compares pictures with their originals.
        passes: side -> what its pass took; no ``reference`` when nothing had to be looked at.
        sizes: of each side that was seen the size of its pictures, None where there are several.
        device: the device's name.
    """

    interrupted: bool = False
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    gallery: dict[str, list[Reconstruction]] = field(default_factory=dict)
    passes: dict[Side, Pass] = field(default_factory=dict)
    sizes: dict[Side, Size | None] = field(default_factory=dict)
    device: str = "cpu"


def evaluate_sets(
    generated: PictureSet,
    metrics: Mapping[str, EvaluationMetric],
    extractors: Sequence[Extractor],
    decoder: LatentDecoder | None,
    make_trainer: Callable[..., pl.Trainer],
    *,
    reference: PictureSet | None = None,
    by_originals: bool = False,
    statistics: Mapping[str, np.ndarray] | None = None,
    keep_statistics: Callable[[dict[str, np.ndarray]], None] = lambda statistics: None,
    images: Path | None = None,
    batch_size: int,
    workers: int,
    console: Console,
    progress_every: int | None = None,
) -> EvaluationResult:
    """Compute metrics of a set, in one pass over it, and one over the reference where that is needed.

    Args:
        metrics: name -> metric, fresh.
        extractors: at least those whose features the metrics read.
        decoder: for sets of latents, in batches of its own size.
        make_trainer: keyword arguments of ours -> Trainer.
        reference: looked at by the metrics that `statistics` do not serve.
        by_originals: the reference is the originals beside the generated pictures: they are looked at in
            one pass.
        statistics: what is known of the reference already.
        keep_statistics: told, in process 0, what was found out of the reference, at the end of its pass.
        images: folder that gets every generated picture as ``<key>.png``; the caller holds its lock and has
            removed the temporaries of killed processes.
        batch_size: of sets of pictures.
        workers: processes that decode picture files, of this process.
        console: for the progress report.
        progress_every: pictures after which it says a line, where there is no terminal for a bar.

    Raises:
        UsageError: a metric lacks its reference, its originals, or an extractor.
        LatentkitError: one line that names the pictures, or the side, that something is wrong with.
    """
    module = EvaluationModule(metrics, extractors, decoder)
    collector = Collector()
    trainer = make_trainer(
        callbacks=[collector],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    rank, processes = trainer.global_rank, trainer.world_size
    unserved = [name for name, metric in metrics.items() if not metric.load_reference(statistics or {})]
    if rank > 0:
        for metric in metrics.values():
            metric.reset()  # the reference is process 0's to count
    _check(generated, metrics, unserved, reference)
    todo: list[tuple[Side, PictureSet, list[str]]] = [("generated", generated, list(metrics))]
    if reference is not None and unserved and not by_originals:
        todo.insert(0, ("reference", reference, unserved))
    result = EvaluationResult()
    with ExitStack() as stack:
        folder = None
        if images is not None:
            folder = stack.enter_context(PictureFolder(images))
        for side, pictures, active in todo:
            size = batch_size if pictures.latents is None or decoder is None else decoder.batch_size
            positions = np.arange(len(pictures), dtype=np.int64)[rank::processes]
            shown = unserved if by_originals else ()
            module.begin_pass(pictures, side, active, size, by_originals=shown)
            stream = PictureStream(
                pictures,
                positions,
                size,
                originals=bool(shown) or any(ORIGINALS in metrics[name].taps for name in active),
                workers=workers,
                pin=isinstance(trainer.accelerator, CUDAAccelerator),
            )
            title = pass_title(f"{side}, {pictures.name}", trainer)
            with (
                ProgressReport(title, len(positions), console, every=progress_every) as progress,
                Interrupts(partial(stop, stream, trainer), patient=rank > 0) as interrupts,
                worker_deaths_told(workers),
            ):
                collector.begin_pass(
                    side,
                    stream,
                    progress,
                    interrupts,
                    by_originals=by_originals,
                    total=len(pictures),
                    digest=_digest(pictures, side),
                    unserved=unserved,
                    folder=folder if side == "generated" else None,
                    search=GallerySearch(len(pictures), SHOWN) if side == "generated" else None,
                    keep_statistics=keep_statistics,
                )
                predict(trainer, module, stream, advice="give the same command again")
            result.passes[side] = Pass(
                collector.pictures, progress.seconds, module.batch_size, module.peak_bytes
            )
            result.interrupted, result.device = collector.interrupted, module.device_name
            if result.interrupted:
                break
        result.values, result.failures = collector.values, collector.failures
        result.gallery, result.sizes = collector.gallery, collector.sizes
    del module
    free_device_memory()
    return result


def _check(
    generated: PictureSet,
    metrics: Mapping[str, EvaluationMetric],
    unserved: Sequence[str],
    reference: PictureSet | None,
) -> None:
    if unserved and reference is None:
        raise UsageError(f"{', '.join(unserved)}: no reference, or its statistics lack what these need")
    pairs = [name for name, metric in metrics.items() if ORIGINALS in metric.taps]
    if pairs and not generated.paired:
        raise UsageError(f"{', '.join(pairs)}: {generated.name} has no originals beside its pictures")


def _digest(pictures: PictureSet, side: Side) -> str:
    """Of what the processes of a run have to agree on."""
    agreed: list[Any] = [side, len(pictures), pictures.identity()]
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()
