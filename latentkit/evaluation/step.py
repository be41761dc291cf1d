"""The batches of a pass over a set, and what is done with each: latents to pictures to features."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.encoders.contract import Vector
from latentkit.errors import LatentkitError
from latentkit.evaluation.comparability import extractors_of
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS
from latentkit.evaluation.picture_set import PictureSet, named
from latentkit.prediction.batches import Batcher, Filled
from latentkit.prediction.loop import Step
from latentkit.runtime.forward import Forward

OPEN_BATCHES = 8
"""Batches that fill up at one time, where pictures come in several sizes."""

MAX_LATENT = 1e3
"""No autoencoder's latents are larger; what is was not meant as latents."""


@dataclass(frozen=True)
class PictureBatch:
    """Some pictures of a set, of equal size, on the host.

    Attributes:
        positions: int64 [B], places in the set's ``keys``.
        stored: what the set holds: uint8 [B, H, W, 3], or latents [B, C, h, w] of any float type.
        originals: uint8 [B, H, W, 3]; None where they were not asked for, or are not known.
    """

    positions: np.ndarray
    stored: Tensor
    originals: Tensor | None = None


@dataclass(frozen=True)
class PictureBatches:
    """The pictures at some positions of a set, each once.

    Iterating raises LatentkitError, which names the picture that cannot be read, or the latents that are not
    finite or larger than any are. A loop with workers belongs into
    `latentkit.prediction.decoding.worker_deaths_told`.

    Attributes:
        pictures: the set.
        positions: int64 [N], ascending.
        size: pictures of a batch, at most.
        originals: whether they are wanted too; else they are not read.
        workers: processes that decode picture files.
        pin: whether batches lie in pinned memory, from which a GPU copies without waiting.
    """

    pictures: PictureSet
    positions: np.ndarray
    size: int
    originals: bool = False
    workers: int = 0
    pin: bool = False

    def __iter__(self) -> Iterator[PictureBatch]:
        if not len(self.positions):
            return
        sets = [self.pictures]
        if self.originals and self.pictures.originals is not None:
            sets.append(self.pictures.originals)
        batcher = Batcher[int](self.size, pin=self.pin, open_batches=OPEN_BATCHES)
        rows = zip(*(part.rows(self.positions, self.workers) for part in sets), strict=True)
        for position, arrays in zip(self.positions.tolist(), rows, strict=True):
            yield from map(self._batch, batcher.add(position, *arrays))
        yield from map(self._batch, batcher.rest())

    def _batch(self, filled: Filled[int]) -> PictureBatch:
        positions = np.array(filled.rows, np.int64)
        if self.pictures.latents is not None:
            _check_latents(self.pictures, positions, filled.tensors[0])
        return PictureBatch(positions, *filled.tensors)


def _check_latents(latents: PictureSet, positions: np.ndarray, stack: Tensor) -> None:
    """Raise LatentkitError, with keys, where latents [B, C, h, w] are not finite, or larger than any are."""
    reach = stack.flatten(1).abs().amax(dim=1).float().numpy()  # NaN where any is
    wrong = np.flatnonzero(~(reach <= MAX_LATENT))
    if len(wrong):
        endless = not np.isfinite(reach[wrong]).all()
        what = "NaN or infinite" if endless else f"as large as {reach[wrong].max():,.0f}, no latents are"
        raise LatentkitError(
            f"{latents.name}: latents are {what}; by key: {named(latents.keys, positions[wrong])}"
        )


class FeatureNetwork(nn.Module):
    """An encoder's network behind its geometry, both on the device.

    Args:
        encoder: one that `check_extractors` has passed.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        assert encoder.geometry is not None
        self.name, self.prepare, self.network = encoder.name, encoder.geometry.prepare, encoder.load()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, H, W, 3] -> ``encoder.output`` -> [B, ...]."""
        outputs = self.network(pixels=self.prepare(pixels))
        return {f"{self.name}.{output}": value for output, value in outputs.items()}


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
        self, batches: PictureBatches, features: AbstractSet[str], *, by_originals: bool = False
    ) -> None:
        """Turn to a set.

        Args:
            batches: those that will come.
            features: those that are wanted.
            by_originals: whether those of the originals are wanted too.
        """
        self._pictures, self._wanted, self._by_originals = batches.pictures, features, by_originals
        self._pad_to = 0 if self._pictures.latents is None else batches.size

    def setup(self, stage: str) -> None:
        if self._pictures.latents is not None and self._decoder is None:
            assert self._declared is not None
            network = self._declared.load()
            self._decoder = Forward(network, self._declared.precision, compiled=self._declared.compile)
        for extractor in extractors_of(self._wanted, self._extractors):
            if extractor.name not in self.networks:
                self.networks[extractor.name] = Forward(
                    FeatureNetwork(extractor), extractor.precision, compiled=extractor.compile
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
        unfinite = "decoded pictures or their features are not finite, also when computed in float32"
        for rows, what in ((outcome.lost, "out of device memory, even alone"), (outcome.unfinite, unfinite)):
            if rows:
                keys = named(self._pictures.keys, positions[rows].tolist())
                raise LatentkitError(f"{self._pictures.name}: {what}: {keys}")
        return outcome.outputs
