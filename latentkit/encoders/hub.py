"""The Hugging Face hub's files, and its many errors as one line that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from latentkit.errors import LatentkitError, one_line


def download(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    where: str,
    otherwise: str,
    local_files_only: bool,
) -> Path:
    """The folder of the hub's cache that holds ``model``'s files, downloaded unless they are there.

    Args:
        patterns: of the files that are needed; no other is downloaded.
        where: the configuration node whose ``model`` it is, for the messages: ``encoders.t5``.
        otherwise: what else a user can do, for the messages.

    Raises:
        LatentkitError: gated, not found, no network, or a name that the hub does not know.
    """
    try:
        folder = snapshot_download(
            model, revision=revision, allow_patterns=list(patterns), local_files_only=local_files_only
        )
    except GatedRepoError:
        text = (
            f"{model} is gated: accept the licence at https://huggingface.co/{model} and run `hf auth login`"
        )
    except RevisionNotFoundError:
        text = f"{model} has no revision {revision}: check {where}.revision"
    except RepositoryNotFoundError:
        text = f"{model} is not on the Hugging Face hub, or is private (then run `hf auth login`)"
    except HFValidationError:
        text = f"{where}.model={model} is neither a folder nor a hub id"
    except LocalEntryNotFoundError:
        reach = "the network is not to be used" if local_files_only else "the hub cannot be reached"
        text = f"{model} is not in the local cache, and {reach}"
    # The hub's client passes on the errors of whichever HTTP library its version uses.
    except Exception as error:
        text = f"{model} cannot be downloaded: {type(error).__name__}: {one_line(error)[:200]}"
    else:
        return Path(folder)
    raise LatentkitError(f"{where.rpartition('.')[2]}: {text}; otherwise {otherwise}") from None
