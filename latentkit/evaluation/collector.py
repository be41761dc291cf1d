"""The callback of an evaluation: hands on each batch, and joins the processes' results after a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from latentkit.errors import LatentkitError
from latentkit.evaluation.comparability import Size
from latentkit.evaluation.gallery import GallerySearch
from latentkit.evaluation.metrics.metric import Side
from latentkit.evaluation.module import EvaluationModule, Seen
from latentkit.evaluation.picture_set import PictureBatch
from latentkit.evaluation.saving import PictureFolder
from latentkit.evaluation.statistics import PICTURE_SIZE
from latentkit.evaluation.stream import PictureStream
from latentkit.prediction.processes import all_gather
from latentkit.report.reconstructions import Reconstruction
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport


class Collector(pl.Callback):
    """Attends pass after pass.

    Attributes:
        pictures: of the pass that ended last, over all processes.
        interrupted: whether some process was asked to stop.
        values: metric -> name -> value; in process 0, when the generated set has been seen.
        failures: likewise, metric -> why it could not be computed.
        gallery: likewise, as in `EvaluationResult`.
        sizes: of each side that was seen the size of its pictures, None where there are several.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.interrupted = False
        self.values: dict[str, dict[str, float]] = {}
        self.failures: dict[str, str] = {}
        self.gallery: dict[str, list[Reconstruction]] = {}
        self.sizes: dict[Side, Size | None] = {}

    def begin_pass(
        self,
        side: Side,
        stream: PictureStream,
        progress: ProgressReport,
        interrupts: Interrupts,
        *,
        by_originals: bool,
        total: int,
        digest: str,
        unserved: Sequence[str],
        folder: PictureFolder | None,
        search: GallerySearch | None,
        keep_statistics: Callable[[dict[str, np.ndarray]], None],
    ) -> None:
        """Turn to the next pass.

        Args:
            by_originals: the originals beside the pictures are the reference.
            total: pictures of its set, over all processes.
            unserved: metrics for which statistics of the reference were not there.
            digest: of its set; processes of one run that disagree about it stop before they begin.
            folder: takes the pictures.
            search: takes their PSNR; None when it is the reference's pass.
            keep_statistics: told, in process 0, what the pass has shown of the reference.
        """
        self._side, self._by_originals, self._total = side, by_originals, total
        self._stream, self._progress, self._interrupts = stream, progress, interrupts
        self._unserved = list(unserved)
        self._digest, self._folder, self._search = digest, folder, search
        self._keep_statistics = keep_statistics
        self._seen = 0
        self._seen_sizes: dict[Side, set[Size]] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """No picture is taken before every process has joined with the same set."""
        self._interrupts.install()  # in place of Lightning's handler, in which the processes wait for another
        if trainer.strategy.broadcast(self._digest) != self._digest:
            raise LatentkitError(
                "the processes of this run see different files: is the collection not on a disk that all of "
                "them share?"
            )
        if trainer.strategy.broadcast(self._unserved) != self._unserved:
            raise LatentkitError(
                "another evaluation has kept statistics of the reference while this run's processes were "
                "starting: give the same command again"
            )

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Seen,
        batch: PictureBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand on what a step returned."""
        if self._folder is not None:
            self._folder.put((self._stream.keys(outputs.positions), outputs.pixels.cpu().numpy()))
        if self._search is not None and outputs.psnr is not None:
            self._search.add(outputs.positions, outputs.psnr.cpu().numpy())
        self._note_size(self._side, outputs.pixels)
        if self._by_originals and batch.originals is not None:
            self._note_size("reference", batch.originals)
        self._seen += len(outputs.positions)
        self._progress.show(self._seen)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sync and compute, while the processes are still together; not after an interruption.

        Raises:
            LatentkitError: not every picture of the set came.
        """
        assert isinstance(pl_module, EvaluationModule)
        if self._folder is not None:
            self._folder.flush()
        everyone = all_gather((self._seen, self._stream.stopped, self._search, self._seen_sizes))
        self.pictures = sum(seen for seen, _, _, _ in everyone)
        self.interrupted = any(stopped for _, stopped, _, _ in everyone)
        if self.interrupted:
            return
        if self.pictures != self._total:
            raise LatentkitError(f"{self.pictures:,} pictures came of {self._total:,}: nothing is computed")
        for side in {side for _, _, _, sizes in everyone for side in sizes}:
            sizes = set().union(*(sizes.get(side, ()) for _, _, _, sizes in everyone))
            self.sizes[side] = sizes.pop() if len(sizes) == 1 else None
        first = trainer.global_rank == 0
        if statistics := pl_module.reference_statistics(first):
            statistics[PICTURE_SIZE] = np.array(self.sizes["reference"] or (0, 0))
            statistics["count"] = np.array(self._total)
            self._keep_statistics(statistics)
        if self._search is None:
            return
        self.values, self.failures = pl_module.values(first)
        if first:
            found = self._search.merge(search for _, _, search, _ in everyone[1:] if search is not None)
            self.gallery = self._shown(pl_module, found)

    def _note_size(self, side: Side, pictures: Tensor) -> None:
        """Of uint8 [B, H, W, 3]; two different ones are enough to know that there are several."""
        known = self._seen_sizes.setdefault(side, set())
        if len(known) < 2:
            known.add((pictures.shape[1], pictures.shape[2]))

    def _shown(
        self, module: EvaluationModule, found: dict[str, dict[int, float]]
    ) -> dict[str, list[Reconstruction]]:
        """Decoded once more, a few pictures: keeping candidates of every batch would take more."""
        positions = sorted({position for row in found.values() for position in row})
        pictures: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for batch in self._stream.again(np.array(positions, np.int64)):
            assert batch.originals is not None
            decoded = module.decode(batch).cpu().numpy()
            for place, original, picture in zip(
                batch.positions.tolist(), batch.originals.numpy(), decoded, strict=True
            ):
                pictures[place] = original, picture
        return {
            name: [
                Reconstruction(key, psnr, *pictures[place])
                for (place, psnr), key in zip(row.items(), self._stream.keys(np.array([*row])), strict=True)
            ]
            for name, row in found.items()
        }
