"""DINOv3's CLS token, for the Fréchet distance on self-supervised features (Stein et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latentkit.encoders.dinov3 import DINOv3
from latentkit.encoders.weights import Pretrained, Random
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.pixels import Pillow

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class DINOv3Extractor(Extractor):
    """The encoder `DINOv3` on pictures of any size: antialiased bilinear resize of floats to 224 x 224.

    Tap: ``dinov3`` [B, D] float32, the CLS token, not normalised; D is 1024 for ViT-L/16. Published FD scores
    on DINO features (Stein et al., 2023, https://arxiv.org/abs/2306.04675; EDM2) are of DINOv2: those of
    DINOv3 are comparable among themselves only.

    Attributes:
        model, revision, weights: as in `DINOv3`.
    """

    name: str = "dinov3"
    model: str = DINOv3.model
    revision: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)

    @property
    def taps(self) -> tuple[str, ...]:
        return ("dinov3",)

    @property
    def pretrained(self) -> bool:
        return not isinstance(self.weights, Random)

    @cached_property
    def encoder(self) -> DINOv3:
        """The network behind the resize."""
        return _Part(
            name=self.name,
            model=self.model,
            revision=self.revision,
            weights=self.weights,
            precision=self.precision,
        )

    def identity(self) -> dict[str, Any]:
        decoder = Pillow(orient=False, strict=False)
        contract = self.encoder.contract(decoder)
        return {
            "network": "dinov3",
            "model": contract.model,
            "revision": contract.revision,
            "weights": contract.weights,
            "input": self.encoder.describe_input(),
            "stored": contract.stored,
            "precision": contract.precision,
        }

    def load(self) -> torch.nn.Module:
        from latentkit.evaluation.extractors.dinov3_network import Resized

        return Resized(self.encoder.load(), size=self.encoder.input_size)


class _Part(DINOv3):
    """Its messages name the extractor."""

    @property
    def where(self) -> str:
        return f"extractors.{self.name}"
