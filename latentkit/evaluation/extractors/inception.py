"""Inception's features, from which FID, sFID, Inception Score, KID, precision and recall are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from latentkit.encoders.weights import Pretrained, Random
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.evaluation.extractors.inception_file import SHA256, URL, WeightsFile, check, fetch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Inception(Extractor):
    """The Inception of 2015-12-05 behind TensorFlow 1's resize to 299 x 299 and (x - 128) / 128.

    Taps, all float32: ``pool3`` [B, 2048]; ``logits`` [B, 1008], without the bias; ``spatial`` [B, 2023],
    of ``Mixed_6d``.

    Attributes:
        path: the published weights' file; None takes torch hub's, where torch-fidelity leaves it, and
            downloads it to there if it is missing. Either must have the published sha256.
        weights: pretrained, or random: seeded, in the same network, whatever their size. With
            ``local_files_only`` nothing is downloaded.
    """

    url: ClassVar[str] = URL
    sha256: ClassVar[str] = SHA256

    name: str = "inception"
    path: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)

    @property
    def taps(self) -> tuple[str, ...]:
        return "pool3", "logits", "spatial"

    @property
    def pretrained(self) -> bool:
        return not isinstance(self.weights, Random)

    @cached_property
    def file(self) -> WeightsFile:
        """The pretrained weights, found or downloaded, and hashed once.

        Raises:
            LatentkitError: absent, damaged, another file, out of reach; one line that says what to do.
            ValueError: the weights are random, and there is no file.
        """
        if isinstance(self.weights, Random):
            raise ValueError(f"{self.name}: random weights have no file")
        if self.path is None:
            offline = self.weights.local_files_only
            return fetch(self.url, self.sha256, where=self.where, local_files_only=offline)
        otherwise = f"the published file is downloaded when {self.where}.path is left out"
        return check(Path(self.path).expanduser(), self.sha256, where=self.where, otherwise=otherwise)

    def identity(self) -> dict[str, Any]:
        return {
            "network": "inception-2015-12-05",
            "weights": f"random:{self.weights.seed}"
            if isinstance(self.weights, Random)
            else self.file.sha256,
            "resize": "bilinear to 299 x 299 from the corner, as TensorFlow 1",
            "precision": self.precision,
        }

    def load(self) -> torch.nn.Module:
        from latentkit.evaluation.extractors.inception_loading import from_file, from_seed

        if isinstance(self.weights, Random):
            return from_seed(self.weights.seed)
        return from_file(self.file.path)
