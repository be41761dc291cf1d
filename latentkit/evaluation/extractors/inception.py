"""Inception's features, from which FID, sFID, Inception Score, KID, precision and recall are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from latentkit.encoders import Encoder, Pretrained, Random
from latentkit.evaluation.extractors.inception_file import SHA256, URL, check, fetch
from latentkit.pixels.geometry import CropToMultiple, Geometry

if TYPE_CHECKING:
    import torch

MODEL = "inception-2015-12-05"
RESIZE = "bilinear to 299 x 299 from the corner, as TensorFlow 1"


@dataclass(frozen=True, kw_only=True)
class Inception(Encoder):
    """The Inception of 2015-12-05 behind TensorFlow 1's resize to 299 x 299 and (x - 128) / 128.

    Outputs, all float32: ``pool3`` [2048]; ``logits`` [1008], without the bias; ``spatial`` [2023], of
    ``Mixed_6d``.

    Attributes:
        path: the published weights' file; None takes torch hub's, where torch-fidelity leaves it, and
            downloads it to there if it is missing. Either must have the published sha256.
        weights: pretrained, or random: seeded, in the same network, whatever their size. With
            ``local_files_only`` nothing is downloaded.
    """

    url: ClassVar[str] = URL
    sha256: ClassVar[str] = SHA256

    name: str = "inception"
    group: str = "extractors"
    path: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)
    stored: ClassVar[str] = "pool3+logits+spatial"

    @property
    def geometry(self) -> Geometry:
        """Pictures as they are: the resize is the network's own."""
        return CropToMultiple(multiple=1)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        sizes = {"pool3": 2048, "logits": 1008, "spatial": 2023}
        return {name: {"shape": [size], "dtype": "float32"} for name, size in sizes.items()}

    @property
    def pretrained(self) -> bool:
        return not isinstance(self.weights, Random)

    @cached_property
    def file(self) -> Path:
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

    def describe_input(self) -> dict[str, Any]:
        return {"resize": RESIZE}

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder.origin`. Finds or downloads the weights, and hashes them."""
        if isinstance(self.weights, Random):
            weights = f"random:{self.weights.seed}"
        else:
            _, weights = self.file, self.sha256
        return {"model": MODEL, "revision": None, "weights": weights}

    def identity(self) -> dict[str, Any]:
        """As files of statistics have always had it."""
        weights = self.origin["weights"]
        return {"network": MODEL, "weights": weights, "resize": RESIZE, "precision": self.precision}

    def build(self) -> torch.nn.Module:
        from latentkit.evaluation.extractors.inception_network import from_file, from_seed

        if isinstance(self.weights, Random):
            return from_seed(self.weights.seed)
        return from_file(self.file)
