"""Encoders whose network has published weights: where these come from, and what the contract says of them."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from latentkit.encoders.encoder import Encoder
from latentkit.encoders.weights import Checkpoint, Layout, Pretrained, Random


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
            ValueError: the weights are random, and there are no files.
        """
        if isinstance(self.weights, Random):
            raise ValueError(f"{self.name}: random weights have no checkpoint")
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
