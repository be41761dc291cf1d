"""Which latents a decoder takes, and how stored latents become them."""

from __future__ import annotations

from collections.abc import Callable
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
        factors: gives (factor, shift) of its training space: z_scaled = (z - shift) * factor. Asked only
            where that matters, for it may fetch the model's configuration.
        scaled: whether latents without a contract are in that space, as a diffusion model gives them; None
            where nobody said.
        random: whether its weights are random; if so, latents of any weights are taken.
    """

    channels: int
    factors: Callable[[], tuple[float, float]]
    scaled: bool | None = None
    random: bool = False

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
        if not contract.pretrained and not self.random:
            raise ContractError(
                f"{where}: the contract says pretrained = False, the weights were random and no decoder fits "
                "them: give weights=random to see it run all the same"
            )
        if self.scaled not in (None, contract.scaled):
            raise ContractError(
                f"{where}: the contract says scaled = {contract.scaled}: leave generated_scaled out"
            )
        if contract.scaling_factor is not None and not self.random:
            made_for, own = (contract.scaling_factor, contract.shift_factor or 0.0), self.factors()
            if made_for != own:
                raise ContractError(
                    f"{where}: the contract says (scaling_factor, shift_factor) = {made_for}, the decoder's "
                    f"are {own}: it belongs to another autoencoder; choose the decoder of {contract.model}"
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
        factor, shift = self.factors()
        return LatentSpace(self.channels, factor, shift)


def latent_channels(contract: Contract) -> int:
    """C of the latents of a contract that has any: of moments, half of what is stored."""
    stored: int = contract.outputs[LATENTS]["shape"][0]
    return stored // 2 if contract.stored == "moments" else stored
