"""What every encoder is: a light declaration that states its contract, and builds its network when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from latentkit.encoders.contract import Contract
from latentkit.encoders.weights import Checkpoint, Layout, Pretrained, Random
from latentkit.errors import UsageError
from latentkit.pixels import Geometry, Pillow

if TYPE_CHECKING:
    import numpy as np
    import torch

PRECISIONS = ("auto", "32-true", "tf32", "16-mixed", "bf16-mixed")


@dataclass(frozen=True, kw_only=True)
class Encoder(ABC):
    """A declaration of one encoder; it imports no torch until `batch` or `load` is called.

    A subclass gives ``geometry``, ``stored``, ``outputs`` and ``build``, as properties or as plain class
    attributes. One with published weights derives from `PretrainedEncoder` instead.

    What it needs of an item is its ``geometry``: pixels in that geometry, or the caption when it is None.
    The loop then calls::

        tensors, facts = encoder.batch(keys, inputs)    # on the host
        outputs = network(**tensors)                    # network = encoder.load(), on the device

    Attributes:
        name: public name, as in ``encoder=<name>`` and in the contract.
        batch_size: inputs of one forward pass.
        precision: arithmetic of the forward pass, applied by the caller. ``auto`` has to be replaced
            (`dataclasses.replace`) by what it stands for before `contract` is asked for.
        compile: whether the network goes through `torch.compile`, applied by the caller.
        channels_last: whether convolutions run in the NHWC memory format.
        group: the configuration group that declares it, for messages.
    """

    name: str
    batch_size: int = 8
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = False
    group: str = "encoders"

    def __post_init__(self) -> None:
        self.require_choice("precision", PRECISIONS)
        if self.batch_size < 1:
            raise UsageError(f"{self.where}.batch_size={self.batch_size}: must be at least 1")

    @property
    def where(self) -> str:
        """Its node in the configuration, for messages; one that is part of something else says which."""
        return f"{self.group}.{self.name}"

    def require_choice(self, option: str, choices: Sequence[str]) -> None:
        """Raise UsageError, listing the choices, unless the option's value is one of them."""
        value = getattr(self, option)
        if value not in choices:
            raise UsageError(f"{self.where}.{option}={value}: choose one of {', '.join(choices)}")

    def require_precision(self) -> None:
        """Raise ValueError unless it is known what ``precision: auto`` stands for."""
        if self.precision == "auto":
            raise ValueError(f"{self.name}: precision 'auto' has to be resolved first")

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

    @property
    def pretrained(self) -> bool:
        """False marks random weights: shapes are right, numbers mean nothing."""
        return True

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """The network whose ``forward(**tensors)`` takes `batch`'s tensors and gives `outputs`."""

    def describe_input(self) -> dict[str, Any]:
        """How decoded pixels, or a caption, become the network's input, as in `Contract.input`.

        Here it is the geometry. A subclass adds whatever else changes its numbers: options of its own, a
        tokenizer, a normalisation.
        """
        return {} if self.geometry is None else self.geometry.describe()

    @property
    def gpu_precision(self) -> str:
        """What ``precision: auto`` stands for on a GPU; on a CPU it is 32-true."""
        return "tf32"

    @property
    def origin(self) -> dict[str, Any]:
        """The contract's ``model``, ``revision`` and ``weights``."""
        model = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"model": model, "revision": None, "weights": "none"}

    def fitted(self, device: str) -> Self:
        """The same for ``cuda`` or ``cpu``: with the precision that ``auto`` stands for there.

        It is compiled on a GPU only.
        """
        gpu = device == "cuda"
        precision = self.precision
        if precision == "auto":
            precision = self.gpu_precision if gpu else "32-true"
        return replace(self, precision=precision, compile=self.compile and gpu)

    @property
    def shapes_vary(self) -> bool:
        """Whether inputs come in as many shapes as there are pictures."""
        return self.geometry is not None and self.geometry.largest() is None

    def contract(self, decoder: Pillow) -> Contract:
        """All that changes the numbers. Builds no network; fetches and hashes weights.

        Args:
            decoder: of the pictures.

        Raises:
            LatentkitError: the weights cannot be had or are damaged.
        """
        self.require_precision()
        return Contract(
            encoder=self.name,
            **self.origin,
            pretrained=self.pretrained,
            input=self.describe_input() | ({} if self.geometry is None else decoder.describe()),
            stored=self.stored,
            outputs=self.outputs,
            precision=self.precision,
        )

    def identity(self) -> dict[str, Any]:
        """All that changes the features of pictures in memory, as JSON values: for reports, and for files of
        statistics. Fetches and hashes weights.
        """
        self.require_precision()
        described = {"input": self.describe_input(), "stored": self.stored, "precision": self.precision}
        return {"network": self.name, **self.origin, **described}

    def load(self) -> torch.nn.Module:
        """The network: on the CPU, float32, in eval mode, without gradients.

        ``forward(**tensors)`` gives output name -> tensor [B, ...] in the stored dtype. `Forward` compiles it
        where ``compile`` asks for that.

        Raises:
            LatentkitError: the weights do not fit the architecture (a key is missing or has another shape).
        """
        import torch

        network = self.build().eval().requires_grad_(False)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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


@dataclass(frozen=True, kw_only=True)
class PretrainedEncoder(Encoder):
    """An encoder with a checkpoint, on the hub or in a folder, or random weights in its place.

    A subclass gives ``layout`` and ``random_config`` beside what `Encoder` asks for, and builds its network
    with `latentkit.encoders.loading.load_model`.

    Attributes:
        model: hub id or local folder; not used with random weights.
        revision: the hub revision; None takes the newest.
        weights: pretrained or random.
    """

    network_class: ClassVar[str]
    """The network's class, as the contract names it."""

    model: str
    revision: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The files of the pretrained network."""

    @abstractmethod
    def random_config(self, size: str) -> dict[str, Any]:
        """Configuration of the network with random weights; ``size`` as in `Random.size`."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The pretrained weights' files, fetched, checked and hashed once.

        Raises:
            LatentkitError: they cannot be had or are damaged; one line that says what to do.
        """
        assert isinstance(self.weights, Pretrained)  # random weights have no files
        return self.weights.fetch(self.model, revision=self.revision, layout=self.layout, where=self.where)

    @property
    def config(self) -> Mapping[str, Any]:
        """The network's configuration: the checkpoint's config.json, or that of the random network."""
        if isinstance(self.weights, Random):
            return self.random_config(self.weights.size)
        return self.checkpoint.config

    @property
    def pretrained(self) -> bool:
        return not isinstance(self.weights, Random)

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder.origin`. Raises LatentkitError when the weights cannot be had or are damaged."""
        if isinstance(self.weights, Random):
            return {"model": f"random {self.network_class}", "revision": None, "weights": self.weights.label}
        files = self.checkpoint
        return {"model": files.model, "revision": files.revision, "weights": dict(files.sha256)}
