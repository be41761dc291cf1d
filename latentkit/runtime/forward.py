"""The one way to run a network on a batch: device, precision, compilation, memory, float32 again, NaN."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

FINITE = "finite"
"""An output [B] bool of a network that rounds: which rows were finite before. It is not among the results."""


def precision_context(name: str, device: torch.device) -> AbstractContextManager[None]:
    """Computes in that precision inside; outside it is again what the process has set.

    Args:
        name: ``32-true``: float32, TF32 off. ``tf32``: float32 weights and activations; matrix products and
            convolutions round their inputs to TF32. ``16-mixed``, ``bf16-mixed``: Lightning's autocast.
        device: where it computes.
    """
    if name in ("32-true", "tf32"):
        return _tf32(name == "tf32")
    return MixedPrecision(name, device.type).forward_context()  # type: ignore[arg-type]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@dataclass
class Launched:
    """A batch on its way through a network.

    Attributes:
        outputs: name -> [B, ...], and `FINITE`; on the host they are whole once `arrived` has happened. In
            the rows below the values are undefined. Empty when no row fits.
        lost: rows that do not fit into memory even alone.
        again: a row's outputs in float32, not compiled; None when memory ran out.
        unfinite: rows that are not finite, also when computed in float32; known by `result`.
    """

    outputs: dict[str, Tensor]
    lost: list[int]
    again: Callable[[int], dict[str, Tensor] | None]
    arrived: torch.cuda.Event | None
    unfinite: list[int] = field(default_factory=list)

    def result(self) -> Self:
        """Wait for it: the batch when it is through, without `FINITE`. To be asked for once."""
        if self.arrived is not None:
            self.arrived.synchronize()
        finite = self.outputs.pop(FINITE, torch.ones(0, dtype=torch.bool))
        for row in torch.nonzero(~finite).flatten().tolist():
            if row in self.lost:
                continue
            found = self.again(row)
            if found is None or not found.pop(FINITE):
                self.unfinite.append(row)
                continue
            for name, output in found.items():
                self.outputs[name][row] = output[0]
        return self


class Forward(nn.Module):
    """Runs a network on batches; the module moves to a device as any other, and its inputs follow it.

    A batch that does not fit into memory is run in halves, as often as needed, and no later batch is tried
    larger. All pieces are equally long, so that they run the same kernels: the last begins early and repeats
    some. A row whose outputs are not finite is computed once more, alone, in float32 and not compiled.

    Args:
        network: called with a batch's tensors as keyword arguments; gives name -> [B, ...].
        precision: ``32-true``, ``tf32``, ``16-mixed`` or ``bf16-mixed``.
        compiled: whether the network goes through `torch.compile`, at its first call.
        shapes_vary: whether inputs come in too many shapes for a graph each.
        to_host: whether outputs are copied to the host; from a GPU without waiting, into pinned memory.

    Attributes:
        fits: the largest batch that may still fit into memory.
    """

    _place: Tensor

    def __init__(
        self,
        network: nn.Module,
        precision: str,
        *,
        compiled: bool = False,
        shapes_vary: bool = False,
        to_host: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.precision, self.to_host = network, precision, to_host
        self.fits = sys.maxsize
        self.register_buffer("_place", torch.empty(0), persistent=False)
        if compiled:
            # One graph a shape runs faster than one for all of them.
            network.compile(dynamic=None if shapes_vary else False)

    def forward(self, tensors: Mapping[str, Tensor], pad_to: int = 0, **settings: Any) -> Launched:
        """Start a batch.

        Args:
            tensors: [B, ...] each, B at least 1; from pinned memory they move without waiting.
            pad_to: rows to which a smaller batch is filled up, by repeating its last one, so that it runs
                the kernels of a whole batch. The outputs have B rows all the same.
            settings: further arguments of the network, the same for all rows.
        """
        device = self._place.device
        place = torch.device("cpu") if self.to_host else device
        pin = place != device
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        count = len(next(iter(moved.values())))
        total = max(count, pad_to)
        padded = moved
        if lacking := total - count:
            padded = {k: torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])]) for k, x in moved.items()}
        outputs: dict[str, Tensor] = {}
        lost: list[int] = []
        start = 0
        while start < count:
            length = min(self.fits, total)
            begin = min(start, total - length)
            piece = {name: tensor[begin : begin + length] for name, tensor in padded.items()}
            found = self._run(self.network, self.precision, piece | settings)
            if found is None:
                torch.cuda.empty_cache()
                self.fits = max(1, length // 2)
                if length > 1:
                    continue
                lost.append(start)
                found = {}
            for name, output in found.items():
                if name not in outputs:
                    shape = (count, *output.shape[1:])
                    outputs[name] = torch.empty(shape, dtype=output.dtype, device=place, pin_memory=pin)
                rows = output[start - begin : count - begin]
                outputs[name][start : start + len(rows)].copy_(rows, non_blocking=True)
            start = begin + length
        arrived = torch.cuda.current_stream(device).record_event() if pin else None

        def again(row: int) -> dict[str, Tensor] | None:
            alone = {name: tensor[row : row + 1] for name, tensor in moved.items()}
            return self._run(self.network.forward, "32-true", alone | settings)

        return Launched(outputs, lost, again, arrived)

    def _run(
        self, network: Callable[..., dict[str, Tensor]], precision: str, inputs: Mapping[str, Any]
    ) -> dict[str, Tensor] | None:
        """Its outputs, and which rows are `FINITE`; None when memory ran out."""
        try:
            with precision_context(precision, self._place.device):
                outputs = dict(network(**inputs))
            told = outputs.pop(FINITE, None)
            finite = [output.isfinite().reshape(len(output), -1).all(1) for output in outputs.values()]
            return outputs | {FINITE: torch.stack(finite if told is None else [*finite, told]).all(0)}
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                return None
            raise
