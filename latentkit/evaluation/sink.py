"""Where an evaluation's batches go: into metrics, a gallery and a folder, summed over the processes."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from latentkit.errors import LatentkitError
from latentkit.evaluation.comparability import Size
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.references import Reference
from latentkit.evaluation.report_folder import PictureFolder
from latentkit.evaluation.statistics import COUNT, PICTURE_SIZE
from latentkit.evaluation.step import EvaluationStep, Extracted, PictureBatches
from latentkit.prediction.loop import PassResult, Sink, all_gather
from latentkit.report.sheets import Reconstruction

SHOWN = 6
"""Pictures a row of the gallery."""


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
