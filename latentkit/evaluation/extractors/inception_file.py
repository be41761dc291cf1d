"""The file of Inception's published weights: the user's, torch hub's, or downloaded to there."""

import hashlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from rich.console import Console

from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Client
from latentkit.downloading.deadline import Stop
from latentkit.errors import LatentkitError
from latentkit.stores.storage import make_folder, publish, remove_temporaries

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_LIMIT = 100_000_000
"""Bytes; the file has 95,628,359."""
_RETRIES = 3
_DEADLINE = 600.0
"""Seconds of one attempt; the next one goes on where it ended."""


def checkpoints_folder() -> Path:
    """Where torch hub keeps weights: ``$TORCH_HOME/hub/checkpoints``, below ``~/.cache/torch`` by default."""
    from torch.hub import get_dir

    return Path(get_dir(), "checkpoints")


def check(file: Path, sha256: str, *, where: str, otherwise: str) -> Path:
    """The file, if it is the one.

    Args:
        sha256: that it must have.
        where: the configuration node, for messages.
        otherwise: what a user can do if it is not the one, for messages.

    Raises:
        LatentkitError: missing, not to be read, or of another hash.
    """
    try:
        with file.open("rb") as stream:
            found = _digest(stream)
    except FileNotFoundError:
        raise LatentkitError(f"{where}: there is no file {file}; {otherwise}") from None
    except OSError as error:
        raise LatentkitError(f"{where}: {file} cannot be read: {error.strerror}; {otherwise}") from None
    if found != sha256:
        raise LatentkitError(
            f"{where}: {file} is damaged or another file: its sha256 is {found}, not {sha256}; {otherwise}"
        )
    return file


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
    file = checkpoints_folder() / url.rpartition("/")[2]
    otherwise = f"pass {where}.path=FILE or weights=random"
    found = partial(check, file, sha256, where=where, otherwise="remove it to have it downloaded again")
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
    with held:
        if not file.exists():
            remove_temporaries(file.parent, below=False)
            _download(url, file, sha256, where, otherwise)
        return found()


def _download(url: str, file: Path, sha256: str, where: str, otherwise: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{where}: downloading {url} to {file.parent}")

    def write(stream: BinaryIO) -> None:
        client.fetch(url, stream, _LIMIT)
        stream.seek(0)
        if (found := _digest(stream)) != sha256:
            raise FetchError(f"it is another file: its sha256 is {found}, not {sha256}")

    client = Client(connections=1, retries=_RETRIES, deadline=_DEADLINE, stop=Stop())
    try:
        publish(file, write)
    except FetchError as error:
        raise LatentkitError(f"{where}: {url} cannot be downloaded: {error}; {otherwise}") from None


def _digest(stream: BinaryIO) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # real files have it
