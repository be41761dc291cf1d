"""Which latents a decoder takes, and how stored latents become them."""

from __future__ import annotations

from dataclasses import dataclass

from latentkit.encoders import LatentDecoder
from latentkit.encoders.contract import Contract, ContractError
from latentkit.errors import UsageError
from latentkit.evaluation.picture_set import LatentSpace

LATENTS = "latents"
"""The output of an encoder that can be decoded."""


@dataclass(frozen=True)
class Decodable:
    """What is known before any latents were opened.

    Attributes:
        decoder: its channels and normalisation are asked for only where they matter, for that may fetch the
            model. If its weights are random, it takes latents of any weights.
        scaled: whether latents without a contract are in its training space, as a diffusion model gives
            them; None where nobody said.
    """

    decoder: LatentDecoder
    scaled: bool | None = None

    def recorded(self, contract: Contract, where: str) -> LatentSpace:
        """The space of latents that have a contract; of moments it is the mean's.

        Raises:
            ContractError: names the field that is not as the decoder needs it.
        """
        if LATENTS not in contract.outputs:
            raise ContractError(
                f"{where}: {contract.encoder} stores {', '.join(contract.outputs)}, no latents"
            )
        channels, decoder = latent_channels(contract), self.decoder
        if channels != decoder.channels:
            raise ContractError(
                f"{where}: the contract of {contract.encoder} says {channels} latent channels, the decoder "
                f"takes {decoder.channels}: choose the decoder of its model"
            )
        if not contract.pretrained and decoder.pretrained:
            raise ContractError(
                f"{where}: the contract says pretrained = False, the weights were random and no decoder fits "
                "them: give weights=random to see it run all the same"
            )
        if self.scaled not in (None, contract.scaled):
            raise ContractError(
                f"{where}: the contract says scaled = {contract.scaled}: leave generated_scaled out"
            )
        if (contract.scaling_factor is not None or contract.latents_std) and decoder.pretrained:
            made_for, own = contract.normalisation, decoder.normalisation
            if made_for != own:
                raise ContractError(
                    f"{where}: the contract says (shift, scale) = {made_for}, the decoder's are {own}: "
                    f"it belongs to another autoencoder; choose the decoder of {contract.model}"
                )
        if not contract.scaled:
            return LatentSpace(channels, pretrained=contract.pretrained)
        shift, scale = contract.normalisation
        return LatentSpace(channels, scale, shift, pretrained=contract.pretrained)

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
            return LatentSpace(self.decoder.channels)
        shift, scale = self.decoder.normalisation
        return LatentSpace(self.decoder.channels, scale, shift)


def latent_channels(contract: Contract) -> int:
    """C of the latents of a contract that has any: of moments, half of what is stored."""
    stored: int = contract.outputs[LATENTS]["shape"][0]
    return stored // 2 if contract.stored == "moments" else stored
