"""Arithmetic of a forward pass, by name."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from lightning.pytorch.plugins.precision import MixedPrecision


def precision_context(name: str, device: torch.device) -> AbstractContextManager[None]:
    """Computes in that precision inside; outside it is again what the process has set.

    Args:
        name: ``32-true``: float32, TF32 off. ``tf32``: float32 weights and activations; matrix products and
            convolutions round their inputs to TF32. ``16-mixed``, ``bf16-mixed``: Lightning's autocast.
        device: where it computes.
    """
    if name in ("32-true", "tf32"):
        return _tf32(name == "tf32")
    mixed: Literal["16-mixed", "bf16-mixed"] = "16-mixed" if name == "16-mixed" else "bf16-mixed"
    return MixedPrecision(mixed, device.type).forward_context()


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
