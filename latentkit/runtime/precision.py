"""Arithmetic of the forward pass: Lightning's precision plugins by name, and TF32 as one of our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision


class TF32Precision(Precision):
    """float32 weights and activations; matrix products and convolutions round their inputs to TF32."""

    precision = "tf32"  # type: ignore[assignment]

    def forward_context(self) -> AbstractContextManager[None]:
        """TF32 inside, whatever the process's own setting was again outside."""
        return _tf32(True)


class Float32Precision(Precision):
    """Full float32: TF32 is off inside, also where the process has switched it on."""

    def forward_context(self) -> AbstractContextManager[None]:
        return _tf32(False)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def precision_plugin(name: str, device: torch.device) -> Precision:
    """The plugin for ``32-true``, ``tf32``, ``16-mixed`` or ``bf16-mixed`` on a device."""
    if name == "32-true":
        return Float32Precision()
    if name == "tf32":
        return TF32Precision()
    mixed: Literal["16-mixed", "bf16-mixed"] = "16-mixed" if name == "16-mixed" else "bf16-mixed"
    return MixedPrecision(mixed, device.type)
