"""The callback of an evaluation: hands on each batch, and joins the processes' results after a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np

from latentkit.errors import LatentkitError
from latentkit.evaluation.gallery import GallerySearch
from latentkit.evaluation.module import EvaluationModule, Seen
from latentkit.evaluation.saving import PictureFolder
from latentkit.evaluation.stream import PictureStream
from latentkit.interrupt import Interrupts
from latentkit.prediction.processes import of_every_process
from latentkit.progress import ProgressReport
from latentkit.report.reconstructions import Reconstruction


class Collector(pl.Callback):
    """Attends pass after pass.

    Attributes:
        pictures: of the pass that ended last, over all processes.
        interrupted: whether some process was asked to stop.
        values: metric -> name -> value; in process 0, when the generated set has been seen.
        gallery: likewise, as in `EvaluationResult`.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.interrupted = False
        self.values: dict[str, dict[str, float]] = {}
        self.gallery: dict[str, list[Reconstruction]] = {}

    def attend(
        self,
        stream: PictureStream,
        progress: ProgressReport,
        interrupts: Interrupts,
        *,
        digest: str,
        folder: PictureFolder | None,
        search: GallerySearch | None,
        keep_statistics: Callable[[dict[str, np.ndarray]], None],
    ) -> None:
        """Turn to the next pass.

        Args:
            digest: of its set; processes of one run that disagree about it stop before they begin.
            folder: takes the pictures.
            search: takes their PSNR; None when it is the reference's pass.
            keep_statistics: told, in process 0, what the pass has shown of the reference.
        """
        self._stream, self._progress, self._interrupts = stream, progress, interrupts
        self._digest, self._folder, self._search = digest, folder, search
        self._keep_statistics = keep_statistics
        self._seen = 0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """No picture is taken before every process has joined with the same set."""
        self._interrupts.install()  # in place of Lightning's handler, in which the processes wait for another
        if trainer.strategy.broadcast(self._digest) != self._digest:
            raise LatentkitError(
                "the processes of this run see different files: is the collection not on a disk that all of "
                "them share?"
            )

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Seen,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand on what a step returned."""
        if self._folder is not None:
            self._folder.put((self._stream.keys(outputs.positions), outputs.pixels.cpu().numpy()))
        if self._search is not None and outputs.psnr is not None:
            self._search.add(outputs.positions, outputs.psnr.cpu().numpy())
        self._seen += len(outputs.positions)
        self._progress.show(self._seen)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sync and compute, while the processes are still together; not after an interruption."""
        assert isinstance(pl_module, EvaluationModule)
        if self._folder is not None:
            self._folder.flush()
        everyone = of_every_process((self._seen, self._stream.stopped, self._search))
        self.pictures = sum(seen for seen, _, _ in everyone)
        self.interrupted = any(stopped for _, stopped, _ in everyone)
        if self.interrupted:
            return
        first = trainer.global_rank == 0
        if statistics := pl_module.reference_statistics(first):
            self._keep_statistics(statistics)
        if self._search is None:
            return
        self.values = pl_module.values(first)
        if first:
            found = self._search.merge(search for _, _, search in everyone[1:] if search is not None)
            self.gallery = self._shown(pl_module, found)

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
