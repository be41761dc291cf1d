"""What every feature network is: a light declaration, hashed into the results, that loads when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentkit.encoders.encoder import PRECISIONS
from latentkit.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Extractor(ABC):
    """A network from pictures to features; it imports no torch until `load` is called.

    Attributes:
        name: public name, as in ``extractors.<name>``.
        precision: arithmetic of its forward pass, applied by the caller: ``32-true``, ``tf32``, ``16-mixed``
            or ``bf16-mixed``.
    """

    name: str
    precision: str = "32-true"

    def __post_init__(self) -> None:
        choices = [precision for precision in PRECISIONS if precision != "auto"]
        if self.precision not in choices:
            raise UsageError(f"{self.where}.precision={self.precision}: choose one of {', '.join(choices)}")

    @property
    def where(self) -> str:
        """Its node in the configuration, for messages."""
        return f"extractors.{self.name}"

    @property
    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """The features that it gives, by name; no two extractors share one."""

    @property
    @abstractmethod
    def pretrained(self) -> bool:
        """False marks random weights: features of the right shape that mean nothing."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values: all that changes the features (weights' sha256, resize, precision). May fetch weights.

        Raises:
            LatentkitError: the weights cannot be had; one line that says what to do.
        """

    @abstractmethod
    def load(self) -> torch.nn.Module:
        """The network: on the CPU, float32, in eval mode, without gradients.

        ``forward(pixels)`` takes uint8 [B, H, W, 3] on the device and gives tap -> float32 [B, d].

        Raises:
            LatentkitError: the weights cannot be had, or do not fit the network.
        """
