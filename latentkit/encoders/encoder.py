"""What every encoder is: a light declaration that states its contract, and builds its network when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from latentkit.encoders.contract import Contract
from latentkit.encoders.weights import Checkpoint, Layout, Pretrained, Random
from latentkit.errors import UsageError
from latentkit.pixels.geometry import Geometry

if TYPE_CHECKING:
    import numpy as np
    import torch

PRECISIONS = ("auto", "32-true", "tf32", "16-mixed", "bf16-mixed")


@dataclass(frozen=True, kw_only=True)
class Encoder(ABC):
    """A declaration of one encoder; it imports no torch until `batch` or `load` is called.

    What it needs of an item is its ``geometry``: pixels in that geometry, or the caption when it is None.
    The loop then calls::

        tensors, facts = encoder.batch(keys, inputs)    # on the host
        outputs = network(**tensors)                    # network = encoder.load(), on the device

    Attributes:
        name: public name, as in ``encoder=<name>`` and in the contract.
        model: hub id or local folder; not used with random weights.
        revision: the hub revision; None takes the newest.
        weights: pretrained or random.
        batch_size: inputs of one forward pass.
        precision: arithmetic of the forward pass, applied by the caller. ``auto`` has to be replaced
            (`dataclasses.replace`) by what it stands for before `contract` is asked for.
        compile: whether the network goes through `torch.compile`.
        channels_last: whether convolutions run in the NHWC memory format.
    """

    network_class: ClassVar[str]
    """The network's class, as the contract names it."""

    gpu_precision: ClassVar[str] = "tf32"
    """What ``precision: auto`` stands for on a GPU; on a CPU it is 32-true."""

    name: str
    model: str
    revision: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)
    batch_size: int = 8
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        self.require_choice("precision", PRECISIONS)
        if self.batch_size < 1:
            raise UsageError(f"encoders.{self.name}.batch_size={self.batch_size}: must be at least 1")

    def require_choice(self, option: str, choices: Sequence[str]) -> None:
        """Raise UsageError, listing the choices, unless the option's value is one of them."""
        value = getattr(self, option)
        if value not in choices:
            raise UsageError(f"encoders.{self.name}.{option}={value}: choose one of {', '.join(choices)}")

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The files of the pretrained network."""

    @property
    @abstractmethod
    def geometry(self) -> Geometry | None:
        """The pixels that it reads; None when it reads the caption."""

    @property
    @abstractmethod
    def stored(self) -> str:
        """What the numbers are, as in `Contract.stored`."""

    @property
    @abstractmethod
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Output name -> {"shape": [...], "dtype": ...} of one item, as in `Contract.outputs`."""

    @abstractmethod
    def describe_input(self, *, orient: bool) -> dict[str, Any]:
        """How an item becomes the network's input, as in `Contract.input`."""

    @abstractmethod
    def random_config(self, size: str) -> dict[str, Any]:
        """Configuration of the network with random weights; ``size`` as in `Random.size`."""

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """The network whose ``forward(**tensors)`` takes `batch`'s tensors and gives `outputs`."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The pretrained weights' files, fetched, checked and hashed once.

        Raises:
            LatentkitError: they cannot be had or are damaged; one line that says what to do.
            ValueError: the weights are random, and there are no files.
        """
        if isinstance(self.weights, Random):
            raise ValueError(f"{self.name}: random weights have no checkpoint")
        return self.weights.fetch(self.model, revision=self.revision, layout=self.layout, encoder=self.name)

    @property
    def config(self) -> Mapping[str, Any]:
        """The network's configuration: the checkpoint's config.json, or that of the random network."""
        if isinstance(self.weights, Random):
            return self.random_config(self.weights.size)
        return self.checkpoint.config

    def contract(self, *, orient: bool) -> Contract:
        """All that changes the numbers. Fetches and hashes the weights, and builds no network.

        Args:
            orient: whether EXIF orientation was applied to the pictures.

        Raises:
            LatentkitError: the weights cannot be had or are damaged.
        """
        if self.precision == "auto":
            raise ValueError(
                f"{self.name}: precision 'auto' has to be resolved before the contract is asked for"
            )
        model: str
        revision: str | None
        weights: Mapping[str, str] | str
        if isinstance(self.weights, Random):
            model, revision, weights = f"random {self.network_class}", None, self.weights.label
        else:
            model, revision, weights = self.checkpoint.model, self.checkpoint.revision, self.checkpoint.sha256
        return Contract(
            encoder=self.name,
            model=model,
            revision=revision,
            weights=weights,
            pretrained=not isinstance(self.weights, Random),
            input=self.describe_input(orient=orient),
            stored=self.stored,
            outputs=self.outputs,
            precision=self.precision,
        )

    def load(self) -> torch.nn.Module:
        """The network: on the CPU, float32, in eval mode, without gradients.

        ``forward(**tensors)`` gives output name -> tensor [B, ...] in the stored dtype. Compilation, when it
        is asked for, happens at the first call.

        Raises:
            LatentkitError: the weights do not fit the architecture (a key is missing or has another shape).
        """
        import torch

        network = self.build().eval().requires_grad_(False)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            network.compile()
        return network

    def batch(
        self, keys: Sequence[str], inputs: np.ndarray | torch.Tensor | Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """The tensors of one forward pass, and what each item's record says of its input.

        Args:
            keys: the B items' keys; nothing depends on an item's position in the batch.
            inputs: pixels [B, H, W, 3] in the geometry's dtype (an array or a tensor), or B captions.

        Returns:
            The network's keyword arguments, on the CPU, and B dictionaries of JSON values (empty for
            pictures).
        """
        import torch

        return {"pixels": torch.as_tensor(inputs)}, [{} for _ in keys]
