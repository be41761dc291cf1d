"""Networks saved as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_perturbed(network: Any, folder: Path) -> Path:
    """Perturb every parameter (initial norms and biases would hide a swapped weight) and save; the folder."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    network.save_pretrained(folder)
    return folder
