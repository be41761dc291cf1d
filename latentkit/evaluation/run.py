"""Takes the metrics over the reference and the generated set, one Trainer for both."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from rich.console import Console

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.errors import UsageError
from latentkit.evaluation.batches import PictureBatches
from latentkit.evaluation.extractors.features import check_extractors, extractors_of
from latentkit.evaluation.metrics.metric import ORIGINALS, EvaluationMetric, Side
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.saving import PictureFolder
from latentkit.evaluation.sink import EvaluationResult, MetricSink
from latentkit.evaluation.step import EvaluationStep
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
    unserved = [name for name, metric in metrics.items() if not metric.load_reference(statistics or {})]
    _check(generated, metrics, extractors, unserved, reference)
    step = EvaluationStep(extractors, decoder)
    loop = Loop(
        make_trainer,
        advice="give the same command again",
        workers=workers,
        console=console,
        progress_every=progress_every,
    )
    todo: list[tuple[Side, PictureSet, Mapping[str, EvaluationMetric]]] = [("generated", generated, metrics)]
    if reference is not None and unserved and not by_originals:
        todo.insert(0, ("reference", reference, {name: metrics[name] for name in unserved}))
    result = EvaluationResult()
    with ExitStack() as stack:
        folder = stack.enter_context(PictureFolder(images)) if images is not None else None
        for side, pictures, active in todo:
            size = batch_size if pictures.latents is None or decoder is None else decoder.batch_size
            features = {feature for metric in active.values() for feature in metric.features}
            batches = PictureBatches(
                pictures,
                np.arange(len(pictures), dtype=np.int64)[loop.rank :: loop.processes],
                size,
                originals=ORIGINALS in features or (by_originals and bool(unserved)),
                workers=workers,
                pin=loop.pin,
            )
            step.begin_pass(pictures, size, features, by_originals=by_originals and bool(unserved))
            sink = MetricSink(
                result,
                batches,
                step,
                side,
                active,
                of_reference=unserved if by_originals or side == "reference" else [],
                keep_statistics=keep_statistics,
                first=loop.rank == 0,
                folder=folder if side == "generated" else None,
            )
            result.passes[side] = loop.run(
                Pass(
                    title=f"{side}, {pictures.name}",
                    total=len(batches.positions),
                    batches=batches,
                    step=step,
                    sink=sink,
                    agreed={
                        DIFFERENT_FILES: (side, len(pictures), pictures.identity()),
                        _CHANGED_STATISTICS: unserved,
                    },
                )
            )
            result.batch_sizes[side] = step.batch_size
            if result.interrupted:
                break
    return result


def _check(
    generated: PictureSet,
    metrics: Mapping[str, EvaluationMetric],
    extractors: Sequence[Encoder],
    unserved: Sequence[str],
    reference: PictureSet | None,
) -> None:
    """Raise UsageError when a metric lacks its reference, its originals, or an extractor."""
    needed = extractors_of({read for metric in metrics.values() for read in metric.features}, extractors)
    check_extractors(metrics, needed)
    if unserved and reference is None:
        raise UsageError(f"{', '.join(unserved)}: no reference, or its statistics lack what these need")
    pairs = [name for name, metric in metrics.items() if ORIGINALS in metric.features]
    if pairs and generated.originals is None:
        raise UsageError(f"{', '.join(pairs)}: {generated.name} has no originals beside its pictures")
