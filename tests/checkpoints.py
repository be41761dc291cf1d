"""Networks saved as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from latentkit.jobs.config import conf_dir


def save_perturbed(network: Any, folder: Path) -> Path:
    """Perturb every parameter (initial norms and biases would hide a swapped weight) and save; the folder."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    network.save_pretrained(folder)
    return folder


def tiny_autoencoder(blocks: int, **config: object) -> Any:
    """Of so many blocks, 8 channels wide; initialised from seed 0."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        norm_num_groups=4,
        **config,
    )


def shipped_architecture(encoder: str) -> dict[str, Any]:
    """What a shipped autoencoder's YAML says of the published configuration."""
    return dict(OmegaConf.load(conf_dir() / "encoder" / f"{encoder}.yaml").architecture)
