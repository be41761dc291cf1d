"""Inception's features, from which FID, sFID, Inception Score, KID, precision and recall are computed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from filelock import FileLock

from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Client
from latentkit.downloading.deadline import Stop
from latentkit.encoders import Encoder, Pretrained, Random
from latentkit.encoders.weights import file_sha256
from latentkit.errors import LatentkitError
from latentkit.pixels.geometry import CropToMultiple, Geometry
from latentkit.runtime.terminal import open_console
from latentkit.stores.storage import make_folder, publish, remove_temporaries

if TYPE_CHECKING:
    import torch

MODEL = "inception-2015-12-05"
RESIZE = "bilinear to 299 x 299 from the corner, as TensorFlow 1"

_LIMIT = 100_000_000
"""Bytes; the file has 95,628,359."""
_RETRIES = 3
_DEADLINE = 600.0
"""Seconds of one attempt; the next one goes on where it ended."""


@dataclass(frozen=True, kw_only=True)
class Inception(Encoder):
    """The Inception of 2015-12-05 behind TensorFlow 1's resize to 299 x 299 and (x - 128) / 128.

    Outputs, all float32: ``pool3`` [2048]; ``logits`` [1008], without the bias; ``spatial`` [2023], of
    ``Mixed_6d``.

    Attributes:
        path: the published weights' file; None takes torch hub's, where torch-fidelity leaves it, and
            downloads it to there if it is missing. Either must have the published sha256.
        weights: pretrained, or random: seeded, in the same network, whatever their size. With
            ``local_files_only`` nothing is downloaded.
    """

    url: ClassVar[str] = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth"
    )
    sha256: ClassVar[str] = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

    name: str = "inception"
    group: str = "extractors"
    path: str | None = None
    weights: Pretrained | Random = field(default_factory=Pretrained)
    stored: ClassVar[str] = "pool3+logits+spatial"

    @property
    def geometry(self) -> Geometry:
        """Pictures as they are: the resize is the network's own."""
        return CropToMultiple(multiple=1)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        sizes = {"pool3": 2048, "logits": 1008, "spatial": 2023}
        return {name: {"shape": [size], "dtype": "float32"} for name, size in sizes.items()}

    @property
    def pretrained(self) -> bool:
        return not isinstance(self.weights, Random)

    @cached_property
    def file(self) -> Path:
        """The pretrained weights, found or downloaded, and hashed once.

        Raises:
            LatentkitError: absent, damaged, another file, out of reach; one line that says what to do.
        """
        assert isinstance(self.weights, Pretrained)  # random weights have no file
        if self.path is None:
            offline = self.weights.local_files_only
            return fetch(self.url, self.sha256, where=self.where, local_files_only=offline)
        otherwise = f"the published file is downloaded when {self.where}.path is left out"
        return _checked(Path(self.path).expanduser(), self.sha256, self.where, otherwise)

    def describe_input(self) -> dict[str, Any]:
        return {"resize": RESIZE}

    @property
    def origin(self) -> dict[str, Any]:
        """See `Encoder.origin`. Finds or downloads the weights, and hashes them."""
        if isinstance(self.weights, Random):
            weights = f"random:{self.weights.seed}"
        else:
            _, weights = self.file, self.sha256
        return {"model": MODEL, "revision": None, "weights": weights}

    def identity(self) -> dict[str, Any]:
        """As files of statistics have always had it."""
        weights = self.origin["weights"]
        return {"network": MODEL, "weights": weights, "resize": RESIZE, "precision": self.precision}

    def build(self) -> torch.nn.Module:
        from latentkit.evaluation.extractors.inception_network import from_file, from_seed

        if isinstance(self.weights, Random):
            return from_seed(self.weights.seed)
        return from_file(self.file)


def fetch(url: str, sha256: str, *, where: str, local_files_only: bool) -> Path:
    """The file of torch hub's folder that has the URL's last part as its name, downloaded unless it is there.

    Processes that want it at one time wait for the one that downloads it.

    Args:
        url, sha256: of the published file.
        where: the configuration node, for messages.
        local_files_only: never use the network.

    Raises:
        LatentkitError: it is not there and cannot be had, or what is there is another file.
    """
    from torch.hub import get_dir  # $TORCH_HOME/hub, below ~/.cache/torch by default

    file = Path(get_dir(), "checkpoints", url.rpartition("/")[2])
    otherwise = f"pass {where}.path=FILE or weights=random"
    found = partial(_checked, file, sha256, where, "remove it to have it downloaded again")
    if file.exists():
        return found()
    if local_files_only:
        raise LatentkitError(
            f"{where}: {file} is missing, and the network is not to be used; "
            f"bring it from {url}, or {otherwise}"
        )
    try:
        make_folder(file.parent)
        held = FileLock(file.with_name(f".{file.name}.lock")).acquire()
    except (LatentkitError, OSError) as error:
        raise LatentkitError(f"{where}: {error}; set TORCH_HOME to another folder, or {otherwise}") from None

    def write(stream: BinaryIO) -> None:
        client.fetch(url, stream, _LIMIT)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a real file
        if digest != sha256:
            raise FetchError(f"it is another file: its sha256 is {digest}, not {sha256}")

    client = Client(connections=1, retries=_RETRIES, deadline=_DEADLINE, stop=Stop())
    with held:
        if not file.exists():
            remove_temporaries(file.parent, below=False)
            open_console().print(f"{where}: downloading {url} to {file.parent}")
            try:
                publish(file, write)
            except FetchError as error:
                message = f"{where}: {url} cannot be downloaded: {error}; {otherwise}"
                raise LatentkitError(message) from None
        return found()


def _checked(file: Path, sha256: str, where: str, otherwise: str) -> Path:
    """The file. Raises LatentkitError where it cannot be read, or is another one."""
    try:
        found = file_sha256(file)
    except OSError as error:
        raise LatentkitError(f"{where}: {file} cannot be read: {error.strerror}; {otherwise}") from None
    if found != sha256:
        raise LatentkitError(
            f"{where}: {file} is damaged or another file: its sha256 is {found}, not {sha256}; {otherwise}"
        )
    return file
