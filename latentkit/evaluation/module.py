"""The LightningModule of an evaluation: latents to pictures to features to metrics, in one pass for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from latentkit.encoders import LatentDecoder
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.picture_set import LatentSpace, PictureBatch, PictureSet
from latentkit.evaluation.sets.rows import named
from latentkit.runtime.memory import MeasuredModule, within_memory
from latentkit.runtime.precision import precision_plugin

_FINITE = "finite"


@dataclass(frozen=True)
class Seen:
    """A batch that all metrics have taken in.

    Attributes:
        positions: int64 [B], of the real pictures; no padding is among them.
        pixels: uint8 [B, H, W, 3], on the device.
        psnr: [B] in dB, on the device; None when no metric compares pictures with their originals.
    """

    positions: np.ndarray
    pixels: Tensor
    psnr: Tensor | None


class EvaluationModule(MeasuredModule):
    """Runs each network once a batch, whatever the number of metrics that want its features.

    Call `begin_pass` before each pass.

    Args:
        metrics: name -> metric; their states stay on the device from pass to pass.
        extractors: at least those whose features the metrics read; the others are not loaded.
        decoder: for sets of latents.

    Raises:
        UsageError: a metric reads a feature that no extractor gives.
    """

    def __init__(
        self,
        metrics: Mapping[str, EvaluationMetric],
        extractors: Sequence[Extractor],
        decoder: LatentDecoder | None,
    ) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(metrics)
        self.networks = nn.ModuleDict()
        self._decoder = decoder
        self._extractors = {tap: extractor for extractor in extractors for tap in extractor.taps}
        for name, metric in metrics.items():
            for tap in sorted(set(metric.taps) - {PIXELS, ORIGINALS} - self._extractors.keys()):
                choices = ", ".join(self._extractors) or "none"
                raise UsageError(
                    f"metric={name} reads {tap}, which no extractor gives (there are: {choices})"
                )

    def begin_pass(
        self,
        pictures: PictureSet,
        side: Side,
        active: Sequence[str],
        batch_size: int,
        *,
        by_originals: Sequence[str] = (),
    ) -> None:
        """Turn to a set, from which the metrics named in `active` take what they need of that side.

        Args:
            by_originals: those of them that take the originals beside its pictures for the reference.
        """
        self._pictures, self._side, self._active, self._fits = pictures, side, active, batch_size
        self._by_originals = by_originals
        self._taps = {tap for name in active for tap in self._metric(name).taps}

    @property
    def batch_size(self) -> int:
        """The largest batch of this pass that has not run out of memory so far."""
        return self._fits

    def setup(self, stage: str) -> None:
        """Load what this pass needs and no earlier one did, on the host; Lightning moves it to the device."""
        if self._space is not None and "decoder" not in self.networks:
            assert self._decoder is not None
            self.networks["decoder"] = self._decoder.load()
        for extractor in self._needed():
            if extractor.name not in self.networks:
                self.networks[extractor.name] = extractor.load()

    def transfer_batch_to_device(
        self, batch: PictureBatch, device: torch.device, dataloader_idx: int
    ) -> PictureBatch:
        """As it is stored over the bus, from pinned memory, without waiting."""
        return dataclasses.replace(
            batch,
            **{
                name: tensor.to(device, non_blocking=True)
                for name in ("pixels", "latents", "originals")
                if (tensor := getattr(batch, name)) is not None
            },
        )

    def predict_step(self, batch: PictureBatch, batch_idx: int) -> Seen:
        """Decode, extract, and update every metric of the pass.

        Raises:
            LatentkitError: names the pictures that do not fit into memory even alone, or that are not finite
                also when computed in float32.
        """
        features = self._features(batch)
        pixels = features[PIXELS]
        positions = torch.from_numpy(batch.positions).to(self.device)
        psnr = None
        for name in self._active:
            metric = self._metric(name)
            metric.update({tap: features[tap] for tap in metric.taps}, positions, self._side)
            if metric.latest_psnr is not None:
                psnr = metric.latest_psnr
        if self._by_originals:
            originals = PictureBatch(batch.positions, pixels=batch.originals)
            features = self._computed(originals, self._needed())
            for name in self._by_originals:
                self._metric(name).update(features, positions, "reference")
        return Seen(batch.positions, pixels, psnr)

    def decode(self, batch: PictureBatch) -> Tensor:
        """uint8 [B, H, W, 3] on the device: the pictures of a batch alone, without features or metrics."""
        return self._computed(self.transfer_batch_to_device(batch, self.device, 0), ())[PIXELS]

    def reference_statistics(self, first: bool) -> dict[str, np.ndarray]:
        """What this pass has shown of the reference, of all processes, each of which calls this.

        Empty in all but the `first` process, and where the pass has shown nothing of it.
        """
        found: dict[str, np.ndarray] = {}
        for name in self._active if self._side == "reference" else self._by_originals:
            metric = self._metric(name)
            with metric.sync_context():
                if first:
                    found |= metric.reference_statistics()
        return found

    def values(self, first: bool) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Metric -> name -> value, of all processes, each of which calls this; and metric -> why it has none.

        Both empty in all but the `first` process: the others have nothing to do but to hand in their states.
        """
        found: dict[str, dict[str, float]] = {}
        failures: dict[str, str] = {}
        for name in self._active:
            metric = self._metric(name)
            with metric.sync_context():
                if first:
                    try:
                        found[name] = metric.compute()
                    except LatentkitError as error:
                        failures[name] = str(error)
        return found, failures

    def _features(self, batch: PictureBatch) -> dict[str, Tensor]:
        features = self._computed(batch, self._needed())
        if ORIGINALS in self._taps:
            if batch.originals is None:
                raise LatentkitError(f"{self._pictures.name}: there are no originals to compare with")
            features[ORIGINALS] = batch.originals
        return features

    def _computed(self, batch: PictureBatch, extractors: Sequence[Extractor]) -> dict[str, Tensor]:
        """Pixels and taps of the real pictures, [B, ...] each."""
        places = batch.positions
        tensors = {
            name: tensor for name in ("latents", "pixels") if (tensor := getattr(batch, name)) is not None
        }
        features = self._within_memory(partial(self._forward, extractors), tensors, places)
        wrong = torch.nonzero(~features.pop(_FINITE)).flatten()
        if len(wrong):
            again = partial(self._forward, extractors, precision="32-true")
            chosen = {name: tensor[wrong] for name, tensor in tensors.items()}
            places = places[wrong.cpu().numpy()]
            outputs = self._within_memory(again, chosen, places)
            if not bool(outputs[_FINITE].all()):
                raise LatentkitError(
                    f"{self._pictures.name}: decoded pictures or their features are not finite, also when "
                    f"computed in float32: {self._named(places[(~outputs[_FINITE]).cpu().numpy()])}"
                )
            for name, feature in features.items():
                feature[wrong] = outputs[name]
        return features

    def _within_memory(
        self,
        forward: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        tensors: Mapping[str, Tensor],
        places: np.ndarray,
    ) -> dict[str, Tensor]:
        """Of the real pictures, which stand at these positions of the set and come first in `tensors`."""
        fitted = within_memory(forward, tensors, len(places), self._fits)
        self._fits = fitted.size
        if lost := sorted(row for row in fitted.lost if row < len(places)):
            raise LatentkitError(
                f"{self._pictures.name}: out of device memory, even alone: {self._named(places[lost])}"
            )
        return {name: output[: len(places)] for name, output in fitted.outputs.items()}

    def _named(self, places: np.ndarray) -> str:
        return named(self._pictures.keys, places.tolist())

    def _forward(
        self, extractors: Sequence[Extractor], tensors: dict[str, Tensor], precision: str | None = None
    ) -> dict[str, Tensor]:
        """Pixels, taps, and whether all of a picture's numbers are finite.

        Args:
            precision: in place of the networks' own.
        """
        if "pixels" in tensors:
            pixels = tensors["pixels"]
            finite = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
        else:
            assert self._decoder is not None
            assert self._space is not None
            network = self.networks["decoder"]
            decode = network.forward if precision else network  # the one that is not compiled
            with precision_plugin(precision or self._decoder.precision, self.device).forward_context():
                pixels, finite = decode(tensors["latents"], self._space.scale, self._space.shift)
        outputs = {PIXELS: pixels}
        for extractor in extractors:
            with precision_plugin(precision or extractor.precision, self.device).forward_context():
                taps = self.networks[extractor.name](pixels)
            for tap in sorted(self._taps & taps.keys()):
                outputs[tap] = taps[tap]
                finite = finite & torch.isfinite(taps[tap]).flatten(1).all(1)
        return outputs | {_FINITE: finite}

    def _needed(self) -> list[Extractor]:
        """The extractors of this pass."""
        wanted = (self._extractors[tap] for tap in sorted(self._taps) if tap in self._extractors)
        return list({extractor.name: extractor for extractor in wanted}.values())

    def _metric(self, name: str) -> EvaluationMetric:
        metric = self.metrics[name]
        assert isinstance(metric, EvaluationMetric)
        return metric

    @property
    def _space(self) -> LatentSpace | None:
        return self._pictures.latents
