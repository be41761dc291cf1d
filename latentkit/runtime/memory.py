"""Device memory: a batch that does not fit is halved, and how full the device was is noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Fitted:
    """A batch that has been through the network, whatever it took.

    Attributes:
        outputs: name -> [B, ...], end to end as if in one piece.
        lost: positions of what does not fit even alone; zeros in `outputs`.
        size: the largest piece that has not run out of memory so far.
    """

    outputs: dict[str, Tensor]
    lost: frozenset[int]
    size: int


def within_memory(
    forward: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    tensors: Mapping[str, Tensor],
    count: int,
    size: int,
) -> Fitted:
    """Forward in pieces of the size that fits, halved as often as memory runs out.

    All pieces are equally long, so that they run the same kernels: the last begins early and repeats some.

    Args:
        forward: the network.
        tensors: its inputs, [N, ...] each.
        count: how many of the N are wanted, the first; the others are padding.
        size: the piece to begin with.
    """
    total = len(next(iter(tensors.values())))
    pieces: list[dict[str, Tensor] | None] = []
    lengths: list[int] = []
    start = 0
    while start < count:
        length = min(size, total)
        begin = min(start, total - length)
        try:
            piece = forward({name: tensor[begin : begin + length] for name, tensor in tensors.items()})
            pieces.append({name: output[start - begin :] for name, output in piece.items()})
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            if length > 1:
                size = length // 2
                continue
            pieces.append(None)
        lengths.append(begin + length - start)
        start = begin + length
    outputs, lost = _joined(pieces, lengths)
    return Fitted(outputs, lost, size)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it is the device's memory that ran out, or the host's in torch's hands."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _joined(
    pieces: Sequence[dict[str, Tensor] | None], lengths: Sequence[int]
) -> tuple[dict[str, Tensor], frozenset[int]]:
    """Pieces end to end; a piece that is None becomes zeros, its positions are returned as lost."""
    ends = np.cumsum(lengths).tolist()
    lost = frozenset(
        position
        for piece, length, end in zip(pieces, lengths, ends, strict=True)
        if piece is None
        for position in range(end - length, end)
    )
    whole = next((piece for piece in pieces if piece is not None), None)
    if whole is None:
        return {"": torch.zeros(ends[-1], 1)}, lost
    filled: list[dict[str, Tensor]] = [
        {name: out.new_zeros((length, *out.shape[1:])) for name, out in whole.items()}
        if piece is None
        else piece
        for piece, length in zip(pieces, lengths, strict=True)
    ]
    if len(filled) == 1:
        return filled[0], lost
    return {name: torch.cat([piece[name] for piece in filled]) for name in whole}, lost


class MeasuredModule(pl.LightningModule):
    """Notes where a pass ran and how much memory it took.

    Attributes:
        device_name: where the pass ran; known when it has ended.
        peak_bytes: device memory at its fullest during the pass; None on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device_name = "cpu"
        self.peak_bytes: int | None = None

    def on_predict_start(self) -> None:
        """Count device memory from here."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def on_predict_end(self) -> None:
        """Note the device, from which Lightning takes the networks away next."""
        if self.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name(self.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
