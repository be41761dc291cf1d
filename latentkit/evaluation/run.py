"""Takes the metrics over the reference and the generated set: one Trainer for both, a sink a pass."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.comparability import Size, check_extractors, extractors_of
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference
from latentkit.evaluation.report_folder import PictureFolder
from latentkit.evaluation.statistics import COUNT, PICTURE_SIZE
from latentkit.evaluation.step import EvaluationStep, Extracted, PictureBatches
from latentkit.prediction.loop import DIFFERENT_FILES, Loop, Pass, PassResult, Sink, all_gather
from latentkit.report.sheets import Reconstruction

SHOWN = 6
"""Pictures a row of the gallery."""

_CHANGED_STATISTICS = (
    "another evaluation has kept statistics of the reference while this run's processes were starting: "
    "give the same command again"
)


@dataclasses.dataclass
class EvaluationResult:
    """What came out. Values, failures and the gallery are known to process 0 alone.

    Attributes:
        values: metric -> name -> value; empty after an interruption.
        failures: metric -> why it could not be computed.
        gallery: ``worst``, ``median`` and ``best`` -> reconstructions, the lowest PSNR first; empty when no
            metric compares pictures with their originals.
        passes: side -> what its pass took; no ``reference`` when nothing had to be looked at.
        sizes: of each side that was seen the size of its pictures, None where there are several.
    """

    values: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    gallery: dict[str, list[Reconstruction]] = dataclasses.field(default_factory=dict)
    passes: dict[Side, PassResult] = dataclasses.field(default_factory=dict)
    sizes: dict[Side, Size | None] = dataclasses.field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether some process was asked to stop before the end."""
        return any(took.interrupted for took in self.passes.values())


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


@dataclasses.dataclass
class MetricSink(Sink[Extracted]):
    """Updates the metrics of a pass, and computes them at its end.

    Attributes:
        result: takes what comes out.
        batches: of this process.
        step: decodes the pictures of the gallery once more.
        side: which set it is.
        metrics: those that take what they need of that side.
        of_reference: names of those of them to which the pass shows the reference: as its pictures, or as
            the originals beside them.
        reference: keeps, in process 0, what the pass has shown of it.
        first: whether this is process 0.
        folder: takes the pictures.
    """

    result: EvaluationResult
    batches: PictureBatches
    step: EvaluationStep
    side: Side
    metrics: Mapping[str, EvaluationMetric]
    of_reference: Sequence[str]
    reference: Reference | None
    first: bool
    folder: PictureFolder | None

    def __post_init__(self) -> None:
        self._keys = self.batches.pictures.keys
        self._psnr = np.full(len(self._keys), np.nan)
        self._sizes: dict[Side, set[Size]] = defaultdict(set)

    def begin(self, device: torch.device) -> None:
        for metric in self.metrics.values():
            metric.to(device)

    def take(self, result: Extracted) -> Mapping[str, int]:
        features = result.features
        positions = torch.from_numpy(result.positions).to(features[PIXELS].device)
        for metric in self.metrics.values():
            metric.update({name: features[name] for name in metric.features}, positions, self.side)
            if metric.latest_psnr is not None:
                self._psnr[result.positions] = metric.latest_psnr.cpu().numpy()
        _, height, width, _ = features[PIXELS].shape
        self._sizes[self.side].add((height, width))
        if result.of_originals:
            for name in self.of_reference:
                self.metrics[name].update(result.of_originals, positions, "reference")
            _, height, width, _ = features[ORIGINALS].shape
            self._sizes["reference"].add((height, width))
        if self.folder is not None:
            keys = [self._keys[position] for position in result.positions.tolist()]
            self.folder.put((keys, features[PIXELS].cpu().numpy()))
        return {self.side: len(result.positions)}

    def flush(self) -> None:
        if self.folder is not None:
            self.folder.flush()

    def finish(self, result: PassResult) -> None:
        """Sync and compute; not after an interruption.

        Raises:
            LatentkitError: not every picture of the set came.
        """
        if result.interrupted:
            return
        came, total = result.pictures.total(), len(self._keys)
        if came != total:
            raise LatentkitError(f"{came:,} pictures came of {total:,}: nothing is computed")
        everyone = all_gather((self._psnr, self._sizes))
        for side in {side for _, sizes in everyone for side in sizes}:
            seen = set().union(*(sizes.get(side, ()) for _, sizes in everyone))
            self.result.sizes[side] = seen.pop() if len(seen) == 1 else None
        statistics: dict[str, np.ndarray] = {}
        for name in self.of_reference:
            with self.metrics[name].sync_context():
                statistics |= self.metrics[name].reference_statistics() if self.first else {}
        if statistics and self.reference is not None:
            size = np.array(self.result.sizes["reference"] or (0, 0))
            self.reference.keep(statistics | {PICTURE_SIZE: size, COUNT: np.array(total)})
        if self.side == "generated":
            self._compute()
            if self.first:
                self._show(np.fmax.reduce([psnr for psnr, _ in everyone]))

    def _compute(self) -> None:
        """In process 0; the others have nothing to do but to hand in their states."""
        for name, metric in self.metrics.items():
            with metric.sync_context():
                if self.first:
                    try:
                        self.result.values[name] = metric.compute()
                    except LatentkitError as error:
                        self.result.failures[name] = str(error)

    def _show(self, psnr: np.ndarray) -> None:
        """Decoded once more, a few pictures: keeping candidates of every batch would take more."""
        if np.isnan(psnr).any():  # nothing compares pictures with their originals
            return
        found = gallery_places(psnr, SHOWN)
        places = np.unique(np.concatenate([*found.values()]))
        pictures: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for batch in dataclasses.replace(self.batches, positions=places, workers=0):
            assert batch.originals is not None
            pairs = zip(batch.originals.numpy(), self.step.decode(batch).cpu().numpy(), strict=True)
            pictures.update(zip(batch.positions.tolist(), pairs, strict=True))
        self.result.gallery = {
            name: [
                Reconstruction(self._keys[place], float(psnr[place]), *pictures[place])
                for place in row.tolist()
            ]
            for name, row in found.items()
        }


def gallery_places(psnr: np.ndarray, shown: int) -> dict[str, np.ndarray]:
    """``worst``, ``median`` and ``best`` -> places in `psnr`, the lowest first; ties go by place.

    Fewer than are to be shown of a small set.
    """
    order = psnr.argsort(kind="stable")
    middle = max(0, (len(order) - shown) // 2)
    return {"worst": order[:shown], "median": order[middle : middle + shown], "best": order[-shown:]}
