"""What an evaluation does with a batch: latents to pictures to features, once for all metrics."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.encoders.contract import Vector
from latentkit.errors import LatentkitError
from latentkit.evaluation.batches import PictureBatch
from latentkit.evaluation.extractors.features import FeatureNetwork, extractors_of
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS
from latentkit.evaluation.picture_set import PictureSet, named
from latentkit.prediction.loop import Step
from latentkit.runtime.forward import Forward


@dataclass(frozen=True)
class Extracted:
    """A batch as metrics read it, on the device.

    Attributes:
        positions: int64 [B], places in the set's ``keys``.
        features: name -> [B, ...]: the encoders' outputs, `PIXELS`, and `ORIGINALS` where asked for.
        of_originals: those of the originals, where these are the reference.
    """

    positions: np.ndarray
    features: dict[str, Tensor]
    of_originals: dict[str, Tensor] = field(default_factory=dict)


class EvaluationStep(Step[PictureBatch, Extracted]):
    """Runs each network once a batch, whatever the number of metrics that want its features.

    Call `begin_pass` before each pass. A batch of latents runs as a whole one, so that no picture depends on
    how the set was divided; pictures run as they are, for there may be few of a size.

    Args:
        extractors: those that no pass needs are not loaded.
        decoder: for sets of latents.
    """

    def __init__(self, extractors: Sequence[Encoder], decoder: LatentDecoder | None) -> None:
        super().__init__()
        self._extractors, self._declared = extractors, decoder
        self._decoder: Forward | None = None
        self.networks = nn.ModuleDict()

    def begin_pass(
        self, pictures: PictureSet, size: int, features: AbstractSet[str], *, by_originals: bool = False
    ) -> None:
        """Turn to a set.

        Args:
            pictures: whose batches will come.
            size: pictures of a whole batch.
            features: those that are wanted.
            by_originals: whether those of the originals are wanted too.
        """
        self._pictures, self._size, self._wanted, self._by_originals = pictures, size, features, by_originals
        self._pad_to = 0 if pictures.latents is None else size

    @property
    def batch_size(self) -> int:
        """The largest batch of this pass that has not run out of memory so far."""
        return min(
            [self._size, *(forward.fits for forward in self.modules() if isinstance(forward, Forward))]
        )

    def setup(self, stage: str) -> None:
        if self._pictures.latents is not None and self._decoder is None:
            assert self._declared is not None
            declared = self._declared
            self._decoder = Forward(declared.load(), declared.precision, compiled=declared.compile)
        for extractor in extractors_of(self._wanted, self._extractors):
            if extractor.name not in self.networks:
                network = FeatureNetwork(extractor)
                self.networks[extractor.name] = Forward(
                    network, extractor.precision, compiled=extractor.compile
                )

    def forward(self, batch: PictureBatch) -> Extracted:
        """Decode and extract.

        Raises:
            LatentkitError: names the pictures that do not fit into memory even alone, or that are not finite
                also when computed in float32.
        """
        pixels = self.decode(batch)
        features = {PIXELS: pixels, **self._extract(pixels, batch.positions)}
        if batch.originals is None:
            return Extracted(batch.positions, features)
        originals = batch.originals.to(self.device, non_blocking=True)
        of_originals = self._extract(originals, batch.positions) if self._by_originals else {}
        return Extracted(batch.positions, features | {ORIGINALS: originals}, of_originals)

    def decode(self, batch: PictureBatch) -> Tensor:
        """uint8 [B, H, W, 3] on the device: the pictures of a batch alone."""
        space = self._pictures.latents
        if space is None:
            return batch.stored.to(self.device, non_blocking=True)
        assert self._decoder is not None
        latents = {"latents": batch.stored}
        decoded = self._run(self._decoder, latents, batch.positions, scale=space.scale, shift=space.shift)
        return decoded["pixels"]

    def _extract(self, pixels: Tensor, positions: np.ndarray) -> dict[str, Tensor]:
        return {
            name: feature
            for network in self.networks.values()
            for name, feature in self._run(network, {"pixels": pixels}, positions).items()
            if name in self._wanted
        }

    def _run(
        self, network: nn.Module, tensors: dict[str, Tensor], positions: np.ndarray, **settings: Vector
    ) -> dict[str, Tensor]:
        outcome = network(tensors, self._pad_to, **settings).result()
        for rows, what in (
            (outcome.lost, "out of device memory, even alone"),
            (
                outcome.unfinite,
                "decoded pictures or their features are not finite, also when computed in float32",
            ),
        ):
            if rows:
                keys = named(self._pictures.keys, positions[rows].tolist())
                raise LatentkitError(f"{self._pictures.name}: {what}: {keys}")
        outputs: dict[str, Tensor] = outcome.outputs
        return outputs
