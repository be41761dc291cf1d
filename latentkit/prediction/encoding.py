"""A pass of encoders: one batch of one encoder a step, nothing lost, into a store."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.background import BackgroundThread
from latentkit.prediction.batches import Batch
from latentkit.prediction.loop import Sink, Step
from latentkit.prediction.plan import Outputs
from latentkit.prediction.results import Encoded, Failure
from latentkit.runtime.forward import Forward, Launched


class EncodingStep(Step[Batch, Encoded]):
    """Out of memory and numbers that are not finite cost pictures, never the run.

    A step returns the results of the batch before, so that a GPU computes one batch while the host takes over
    the last; `drain` gives the rest at the end.

    Args:
        encoders: those of this pass.
        fail: told of each picture that could not be encoded.
    """

    def __init__(self, encoders: Sequence[Encoder], fail: Callable[[Failure], None]) -> None:
        super().__init__()
        self._encoders = {encoder.name: encoder for encoder in encoders}
        self._fail = fail
        self._launched: tuple[Batch, Launched] | None = None
        self.networks = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        for name, encoder in self._encoders.items():
            self.networks[name] = Forward(
                encoder.load(),
                encoder.precision,
                compiled=encoder.compile,
                shapes_vary=encoder.shapes_vary,
                to_host=True,
            )

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Encoder -> the largest batch that has not run out of memory so far."""
        sizes = {}
        for name, network in self.networks.items():
            assert isinstance(network, Forward)
            sizes[name] = min(self._encoders[name].batch_size, network.fits)
        return sizes

    def forward(self, batch: Batch) -> Encoded | None:
        size = self._encoders[batch.encoder].batch_size
        launched = self.networks[batch.encoder](batch.tensors, pad_to=size)
        before = self.drain()
        self._launched = batch, launched
        return before

    def drain(self) -> Encoded | None:
        before, self._launched = self._launched, None
        return self._landed(*before) if before else None

    def _landed(self, batch: Batch, launched: Launched) -> Encoded:
        """What has become of a batch; what has no results is quarantined. No NaN passes here."""
        outcome = launched.result()
        bad = dict.fromkeys(outcome.lost, "out of device memory, even alone") | dict.fromkeys(
            outcome.unfinite, "not finite in the stored type, also when computed in float32"
        )
        name = batch.encoder
        for row, reason in bad.items():
            index, key, source = batch.indices[row], batch.keys[row], batch.sources[row]
            self._fail(Failure(index, key, "encode", f"{name}: {reason}", (name,), source))
        kept = [row for row in range(len(batch.keys)) if row not in bad]
        return Encoded(
            encoder=name,
            indices=[batch.indices[row] for row in kept],
            keys=[batch.keys[row] for row in kept],
            arrays={
                output: np.take(values.numpy(), kept, 0) if bad else values.numpy()
                for output, values in outcome.outputs.items()
            },
            facts=[batch.facts[row] for row in kept],
            sources=[batch.sources[row] for row in kept],
        )


class StoreSink(BackgroundThread[Encoded | Failure], Sink[Encoded]):
    """Hands results and failures to a store in their order, in a thread of its own. A context manager."""

    def __init__(self, store: Outputs) -> None:
        super().__init__("latentkit-writer", self._write)
        self._store = store

    def take(self, result: Encoded) -> Mapping[str, int]:
        if result.keys:
            self.put(result)
        return {result.encoder: len(result.keys)}

    def _write(self, results: Sequence[Any]) -> None:
        """Batches that follow each other go to the store together."""
        for kind, run in itertools.groupby(results, key=type):
            if kind is Failure:
                for failure in run:
                    self._store.fail(failure)
            else:
                self._store.write(*run)
