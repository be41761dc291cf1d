"""The LightningModule that runs a pass's encoders: one batch of one encoder a step, nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from latentkit.encoders.encoder import Encoder
from latentkit.prediction.batches import Batch
from latentkit.prediction.precision import precision_plugin
from latentkit.prediction.results import Encoded, Failure


@dataclass(frozen=True)
class _Launched:
    """A forward pass whose results are on their way to the host; `arrived` is None on a CPU."""

    batch: Batch
    outputs: dict[str, torch.Tensor]
    finite: torch.Tensor
    lost: frozenset[int]
    arrived: torch.cuda.Event | None


class EncodingModule(pl.LightningModule):
    """Runs networks over batches; out of memory and non-finite numbers cost pictures, never the run.

    `predict_step` returns the results of the batch before, so that a GPU computes one batch while the
    host takes over the last; `drain` gives the rest at the end.

    Args:
        encoders: those of this pass; their networks are loaded in `setup`.
        fail: told of each picture that could not be encoded.

    Attributes:
        device_name: where the pass ran; known when it has ended.
        peak_bytes: device memory at its fullest during the pass; None on a CPU.
    """

    def __init__(self, encoders: Sequence[Encoder], fail: Callable[[Failure], None]) -> None:
        super().__init__()
        self._encoders = {encoder.name: encoder for encoder in encoders}
        self._fail = fail
        self._fits = {encoder.name: encoder.batch_size for encoder in encoders}
        self._launched: _Launched | None = None
        self.networks = nn.ModuleDict()
        self.device_name = "cpu"
        self.peak_bytes: int | None = None

    def setup(self, stage: str) -> None:
        """Load every network on the host; Lightning moves them to the device."""
        for name, encoder in self._encoders.items():
            self.networks[name] = encoder.load()

    def on_predict_start(self) -> None:
        """Count device memory from here."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def on_predict_end(self) -> None:
        """Note the device, from which Lightning takes the networks away next."""
        if self.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name(self.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)

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
        outputs, lost = self._within_memory(batch)
        finite = torch.stack([torch.isfinite(out).flatten(1).all(1) for out in outputs.values()]).all(0)
        if self.device.type != "cuda":
            return _Launched(batch, outputs, finite, lost, None)
        host = {name: _to_host(tensor) for name, tensor in outputs.items()}
        finite = _to_host(finite)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return _Launched(batch, host, finite, lost, arrived)

    def _within_memory(self, batch: Batch) -> tuple[dict[str, torch.Tensor], frozenset[int]]:
        """Forward in pieces of the size that fits, halved as often as memory runs out.

        Returns:
            The outputs [B, ...] and the positions of pictures that do not fit even alone (zeros there).
        """
        name, total = batch.encoder, len(next(iter(batch.tensors.values())))
        pieces: list[dict[str, torch.Tensor] | None] = []
        sizes: list[int] = []
        start = 0
        while start < len(batch.keys):
            size = self._fits[name]
            # The last piece is as long as the others: it begins early and repeats some pictures.
            begin = min(start, total - size)
            try:
                piece = self._forward(name, {k: v[begin : begin + size] for k, v in batch.tensors.items()})
                pieces.append({k: v[start - begin :] for k, v in piece.items()})
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                torch.cuda.empty_cache()
                if size > 1:
                    self._fits[name] = size // 2
                    continue
                pieces.append(None)
            sizes.append(begin + size - start)
            start = begin + size
        return _joined(pieces, sizes)

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
            if not _is_out_of_memory(error):
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _joined(
    pieces: Sequence[dict[str, torch.Tensor] | None], sizes: Sequence[int]
) -> tuple[dict[str, torch.Tensor], frozenset[int]]:
    """Pieces end to end; a piece that is None becomes zeros, its positions are returned as lost."""
    ends = np.cumsum(sizes).tolist()
    lost = frozenset(
        position
        for piece, size, end in zip(pieces, sizes, ends, strict=True)
        if piece is None
        for position in range(end - size, end)
    )
    whole = next((piece for piece in pieces if piece is not None), None)
    if whole is None:
        return {"": torch.zeros(ends[-1], 1)}, lost
    filled: list[dict[str, torch.Tensor]] = [
        {name: out.new_zeros((size, *out.shape[1:])) for name, out in whole.items()}
        if piece is None
        else piece
        for piece, size in zip(pieces, sizes, strict=True)
    ]
    if len(filled) == 1:
        return filled[0], lost
    return {name: torch.cat([piece[name] for piece in filled]) for name in whole}, lost
