"""Takes the metrics over the reference and the generated set, one Trainer for both."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from rich.console import Console

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.errors import UsageError
from latentkit.evaluation.comparability import check_extractors, extractors_of
from latentkit.evaluation.metrics.metric import ORIGINALS, EvaluationMetric, Side
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference
from latentkit.evaluation.report_folder import PictureFolder
from latentkit.evaluation.sink import EvaluationResult, MetricSink
from latentkit.evaluation.step import EvaluationStep, PictureBatches
from latentkit.prediction.loop import DIFFERENT_FILES, Loop, Pass

_CHANGED_STATISTICS = (
    "another evaluation has kept statistics of the reference while this run's processes were starting: "
    "give the same command again"
)


def evaluate_sets(
    generated: PictureSet,
    metrics: Mapping[str, EvaluationMetric],
    extractors: Sequence[Encoder],
    decoder: LatentDecoder | None,
    make_trainer: Callable[..., pl.Trainer],
    *,
    reference: Reference | None = None,
    by_originals: bool = False,
    images: Path | None = None,
    batch_size: int,
    workers: int,
    console: Console,
) -> EvaluationResult:
    """Compute metrics of a set, in one pass over it, and one over the reference where that is needed.

    Args:
        metrics: name -> metric, fresh.
        extractors: at least those whose features the metrics read.
        decoder: for sets of latents, in batches of its own size.
        make_trainer: keyword arguments of ours -> Trainer.
        reference: its pictures are looked at by the metrics that its statistics do not serve; what they find
            out is kept with it, in process 0, at the end of its pass.
        by_originals: the reference is the originals beside the generated pictures: they are looked at in
            one pass.
        images: folder that gets every generated picture as ``<key>.png``; the caller holds its lock and has
            removed the temporaries of killed processes.
        batch_size: of sets of pictures.
        workers: processes that decode picture files, of this process.
        console: for the progress report.

    Raises:
        UsageError: a metric lacks its reference, its originals, or an extractor.
        LatentkitError: one line that names the pictures, or the side, that something is wrong with.
    """
    known = reference.statistics if reference else {}
    unserved = {name: metric for name, metric in metrics.items() if not metric.load_reference(known)}
    read = {feature for metric in metrics.values() for feature in metric.features}
    check_extractors(metrics, extractors_of(read, extractors))
    sides: list[tuple[Side, PictureSet, Mapping[str, EvaluationMetric]]] = [("generated", generated, metrics)]
    if unserved:
        if reference is None or reference.pictures is None:
            raise UsageError(f"{', '.join(unserved)}: no reference, or its statistics lack what these need")
        if not by_originals:
            sides.insert(0, ("reference", reference.pictures, unserved))
    if ORIGINALS in read and generated.originals is None:
        pairs = [name for name, metric in metrics.items() if ORIGINALS in metric.features]
        raise UsageError(f"{', '.join(pairs)}: {generated.name} has no originals beside its pictures")
    step = EvaluationStep(extractors, decoder)
    advice = "give the same command again"
    loop = Loop(make_trainer, advice=advice, workers=workers, console=console, progress_every=None)
    result = EvaluationResult()
    with nullcontext() if images is None else PictureFolder(images) as folder:
        for side, pictures, active in sides:
            features = {feature for metric in active.values() for feature in metric.features}
            both = by_originals and bool(unserved)
            batches = PictureBatches(
                pictures,
                np.arange(len(pictures), dtype=np.int64)[loop.rank :: loop.processes],
                batch_size if pictures.latents is None or decoder is None else decoder.batch_size,
                originals=ORIGINALS in features or both,
                workers=workers,
                pin=loop.pin,
            )
            step.begin_pass(batches, features, by_originals=both)
            sink = MetricSink(
                result,
                batches,
                step,
                side,
                active,
                of_reference=list(unserved) if by_originals or side == "reference" else [],
                reference=reference,
                first=loop.rank == 0,
                folder=folder if side == "generated" else None,
            )
            agreed = {
                DIFFERENT_FILES: (side, len(pictures), pictures.identity),
                _CHANGED_STATISTICS: list(unserved),
            }
            title = f"{side}, {pictures.name}"
            result.passes[side] = loop.run(Pass(title, len(batches.positions), batches, step, sink, agreed))
            if result.interrupted:
                break
    return result
