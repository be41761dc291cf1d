"""The LightningModule that runs a pass's encoders: one batch of one encoder a step, nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.batches import Batch
from latentkit.prediction.results import Encoded, Failure
from latentkit.runtime.memory import MeasuredModule, is_out_of_memory, within_memory
from latentkit.runtime.precision import precision_plugin


@dataclass(frozen=True)
class _Launched:
    """A forward pass whose results are on their way to the host; `arrived` is None on a CPU."""

    batch: Batch
    outputs: dict[str, torch.Tensor]
    finite: torch.Tensor
    lost: frozenset[int]
    arrived: torch.cuda.Event | None


class EncodingModule(MeasuredModule):
    """Runs networks over batches; out of memory and non-finite numbers cost pictures, never the run.

    `predict_step` returns the results of the batch before, so that a GPU computes one batch while the
    host takes over the last; `drain` gives the rest at the end.

    Args:
        encoders: those of this pass; their networks are loaded in `setup`.
        fail: told of each picture that could not be encoded.
    """

    def __init__(self, encoders: Sequence[Encoder], fail: Callable[[Failure], None]) -> None:
        super().__init__()
        self._encoders = {encoder.name: encoder for encoder in encoders}
        self._fail = fail
        self._fits = {encoder.name: encoder.batch_size for encoder in encoders}
        self._launched: _Launched | None = None
        self.networks = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        """Load every network on the host; Lightning moves them to the device."""
        for name, encoder in self._encoders.items():
            self.networks[name] = encoder.load()

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Encoder -> the largest batch that has not run out of memory so far."""
        return dict(self._fits)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """uint8 over the bus, from pinned memory, without waiting."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.tensors.items()}
        return Batch(batch.encoder, batch.indices, batch.keys, batch.facts, batch.sources, moved)

    def predict_step(self, batch: Batch, batch_idx: int) -> Encoded | None:
        """Launch this batch; return the one before (None at first)."""
        before, self._launched = self._launched, None
        launched = self._launch(batch)
        encoded = self._land(before) if before else None
        self._launched = launched
        return encoded

    def drain(self) -> Encoded | None:
        """The results of the last batch."""
        before, self._launched = self._launched, None
        return self._land(before) if before else None

    def _launch(self, batch: Batch) -> _Launched:
        name = batch.encoder
        fitted = within_memory(partial(self._forward, name), batch.tensors, len(batch.keys), self._fits[name])
        self._fits[name] = fitted.size
        outputs, lost = fitted.outputs, fitted.lost
        finite = torch.stack([torch.isfinite(out).flatten(1).all(1) for out in outputs.values()]).all(0)
        if self.device.type != "cuda":
            return _Launched(batch, outputs, finite, lost, None)
        host = {name: _to_host(tensor) for name, tensor in outputs.items()}
        finite = _to_host(finite)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return _Launched(batch, host, finite, lost, arrived)

    def _forward(self, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        plugin = precision_plugin(self._encoders[name].precision, self.device)
        with plugin.forward_context():
            outputs: dict[str, torch.Tensor] = self.networks[name](**tensors)
        return outputs

    def _again_in_float32(self, batch: Batch, row: int) -> dict[str, np.ndarray] | None:
        """One picture once more in full precision; None when it is still not finite or does not fit."""
        tensors = {name: tensor[row : row + 1] for name, tensor in batch.tensors.items()}
        try:
            with precision_plugin("32-true", self.device).forward_context():
                outputs: dict[str, torch.Tensor] = self.networks[batch.encoder].forward(
                    **tensors
                )  # not compiled
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        if not all(bool(torch.isfinite(out).all()) for out in outputs.values()):
            return None
        return {name: out[0].cpu().numpy() for name, out in outputs.items()}

    def _land(self, launched: _Launched) -> Encoded:
        """Wait for the results; quarantine what is lost or not finite. No NaN passes here."""
        if launched.arrived is not None:
            launched.arrived.synchronize()
        batch = launched.batch
        count = len(batch.keys)
        arrays = {name: tensor[:count].numpy() for name, tensor in launched.outputs.items()}
        kept = np.ones(count, bool)
        for row in launched.lost:
            kept[row] = False
            self._quarantine(batch, row, "out of device memory, even alone")
        for row in np.flatnonzero(~launched.finite[:count].numpy() & kept).tolist():
            again = self._again_in_float32(batch, row)
            if again is None:
                kept[row] = False
                self._quarantine(batch, row, "not finite in the stored type, also when computed in float32")
                continue
            for name, value in again.items():
                arrays[name][row] = value
        rows = np.flatnonzero(kept).tolist()
        return Encoded(
            encoder=batch.encoder,
            indices=[batch.indices[row] for row in rows],
            keys=[batch.keys[row] for row in rows],
            arrays=arrays if len(rows) == count else {name: array[kept] for name, array in arrays.items()},
            facts=[batch.facts[row] for row in rows],
            sources=[batch.sources[row] for row in rows],
        )

    def _quarantine(self, batch: Batch, row: int, reason: str) -> None:
        self._fail(
            Failure(
                index=batch.indices[row],
                key=batch.keys[row],
                stage="encode",
                reason=f"{batch.encoder}: {reason}",
                encoders=(batch.encoder,),
                source=batch.sources[row],
            )
        )


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
