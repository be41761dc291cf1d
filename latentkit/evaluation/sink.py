"""Where an evaluation's batches go: into metrics, a gallery and a folder, summed over the processes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from latentkit.errors import LatentkitError
from latentkit.evaluation.batches import PictureBatches
from latentkit.evaluation.comparability import Size
from latentkit.evaluation.gallery import GallerySearch
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.saving import PictureFolder
from latentkit.evaluation.statistics import PICTURE_SIZE
from latentkit.evaluation.step import EvaluationStep, Extracted
from latentkit.prediction.loop import PassResult, Sink, all_gather
from latentkit.report.reconstructions import Reconstruction

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
        batch_sizes: likewise, the batch that fits in memory, in this process.
        sizes: of each side that was seen the size of its pictures, None where there are several.
    """

    values: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    gallery: dict[str, list[Reconstruction]] = dataclasses.field(default_factory=dict)
    passes: dict[Side, PassResult] = dataclasses.field(default_factory=dict)
    batch_sizes: dict[Side, int] = dataclasses.field(default_factory=dict)
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
        keep_statistics: told, in process 0, what the pass has shown of the reference.
        first: whether this is process 0.
        folder: takes the pictures.
    """

    result: EvaluationResult
    batches: PictureBatches
    step: EvaluationStep
    side: Side
    metrics: Mapping[str, EvaluationMetric]
    of_reference: Sequence[str]
    keep_statistics: Callable[[dict[str, np.ndarray]], None]
    first: bool
    folder: PictureFolder | None

    def __post_init__(self) -> None:
        self._keys = self.batches.pictures.keys
        self._search = GallerySearch(len(self._keys), SHOWN)
        self._sizes: dict[Side, set[Size]] = {}

    def begin(self, device: torch.device) -> None:
        for metric in self.metrics.values():
            metric.to(device)

    def take(self, result: Extracted) -> Mapping[str, int]:
        features = result.features
        positions = torch.from_numpy(result.positions).to(features[PIXELS].device)
        for metric in self.metrics.values():
            metric.update({name: features[name] for name in metric.features}, positions, self.side)
        psnr = [metric.latest_psnr for metric in self.metrics.values() if metric.latest_psnr is not None]
        if psnr:
            self._search.add(result.positions, psnr[0].cpu().numpy())
        self._note_size(self.side, features[PIXELS])
        if result.of_originals:
            for name in self.of_reference:
                self.metrics[name].update(result.of_originals, positions, "reference")
            self._note_size("reference", features[ORIGINALS])
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
        everyone = all_gather((self._search, self._sizes))
        for side in {side for _, sizes in everyone for side in sizes}:
            seen = set().union(*(sizes.get(side, ()) for _, sizes in everyone))
            self.result.sizes[side] = seen.pop() if len(seen) == 1 else None
        statistics: dict[str, np.ndarray] = {}
        for name in self.of_reference:
            with self.metrics[name].sync_context():
                statistics |= self.metrics[name].reference_statistics() if self.first else {}
        if statistics:
            statistics[PICTURE_SIZE] = np.array(self.result.sizes["reference"] or (0, 0))
            statistics["count"] = np.array(total)
            self.keep_statistics(statistics)
        if self.side == "generated":
            self._compute()
            if self.first:
                self._show(self._search.merge(search for search, _ in everyone[1:]))

    def _compute(self) -> None:
        """In process 0; the others have nothing to do but to hand in their states."""
        for name, metric in self.metrics.items():
            with metric.sync_context():
                if self.first:
                    try:
                        self.result.values[name] = metric.compute()
                    except LatentkitError as error:
                        self.result.failures[name] = str(error)

    def _show(self, found: dict[str, dict[int, float]]) -> None:
        """Decoded once more, a few pictures: keeping candidates of every batch would take more."""
        places = np.array(sorted({place for row in found.values() for place in row}), np.int64)
        pictures: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for batch in dataclasses.replace(self.batches, positions=places, workers=0):
            assert batch.originals is not None
            pairs = zip(batch.originals.numpy(), self.step.decode(batch).cpu().numpy(), strict=True)
            pictures.update(zip(batch.positions.tolist(), pairs, strict=True))
        self.result.gallery = {
            name: [Reconstruction(self._keys[place], psnr, *pictures[place]) for place, psnr in row.items()]
            for name, row in found.items()
        }

    def _note_size(self, side: Side, pictures: Tensor) -> None:
        """Of uint8 [B, H, W, 3]; two different ones are enough to know that there are several."""
        known = self._sizes.setdefault(side, set())
        if len(known) < 2:
            known.add((pictures.shape[1], pictures.shape[2]))
