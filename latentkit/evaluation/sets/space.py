"""Which latents a decoder takes, and how stored latents become them."""

from __future__ import annotations

from dataclasses import dataclass

from latentkit.encoders.contract import Contract, ContractError
from latentkit.errors import UsageError
from latentkit.evaluation.picture_set import LatentSpace

LATENTS = "latents"
"""The output of an encoder that can be decoded."""


@dataclass(frozen=True, kw_only=True)
class Decodable:
    """What is known of a decoder before any latents were opened.

    Attributes:
        channels: C of the latents that it takes.
        factor, shift: of its training space: z_scaled = (z - shift) * factor.
        scaled: whether latents without a contract are in that space, as a diffusion model gives them; None
            where nobody said.
        allow_random: take latents of random weights, which decode to nothing.
    """

    channels: int
    factor: float = 1.0
    shift: float = 0.0
    scaled: bool | None = None
    allow_random: bool = False

    def recorded(self, contract: Contract, where: str) -> LatentSpace:
        """The space of latents that have a contract; of moments it is the mean's.

        Raises:
            ContractError: names the field that is not as the decoder needs it.
        """
        if LATENTS not in contract.outputs:
            raise ContractError(
                f"{where}: {contract.encoder} stores {', '.join(contract.outputs)}, no latents"
            )
        channels = latent_channels(contract)
        if channels != self.channels:
            raise ContractError(
                f"{where}: the contract of {contract.encoder} says {channels} latent channels, the decoder "
                f"takes {self.channels}: choose the decoder of its model"
            )
        if not contract.pretrained and not self.allow_random:
            raise ContractError(
                f"{where}: the contract says pretrained = False, the weights were random and no decoder fits "
                "them: give weights=random to see it run all the same"
            )
        if self.scaled not in (None, contract.scaled):
            raise ContractError(
                f"{where}: the contract says scaled = {contract.scaled}: leave generated_scaled out"
            )
        if not contract.scaled:
            return LatentSpace(channels, pretrained=contract.pretrained)
        if contract.scaling_factor is None:
            raise ContractError(f"{where}: the contract says scaled = True and scaling_factor = None")
        shift = contract.shift_factor or 0.0
        return LatentSpace(channels, contract.scaling_factor, shift, pretrained=contract.pretrained)

    def told(self, where: str) -> LatentSpace:
        """The space of latents that say nothing of themselves.

        Raises:
            UsageError: nobody said whether they are scaled.
        """
        if self.scaled is None:
            raise UsageError(
                f"{where} does not say whether its latents are scaled: give generated_scaled=true for a "
                "diffusion model's output in its training space, or false for the autoencoder's own latents"
            )
        if not self.scaled:
            return LatentSpace(self.channels)
        return LatentSpace(self.channels, self.factor, self.shift)


def latent_channels(contract: Contract) -> int:
    """C of the latents of a contract that has any: of moments, half of what is stored."""
    stored: int = contract.outputs[LATENTS]["shape"][0]
    return stored // 2 if contract.stored == "moments" else stored
