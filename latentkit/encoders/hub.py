"""A model's folder: a local one, or the Hugging Face hub's, whose errors become one line each."""

from collections.abc import Sequence
from pathlib import Path

from latentkit.errors import LatentkitError, one_line


def locate(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    where: str,
    otherwise: str,
    local_files_only: bool,
) -> Path:
    """The folder that a model lies in: itself, or the hub's cache, downloaded unless it is there.

    Args:
        model: an existing folder, or a hub id.
        revision: hub revision; not used for a folder.
        patterns: of the hub files that are needed; no other is downloaded.
        where: the configuration node whose ``model`` it is, for messages: ``encoders.t5``.
        otherwise: what else a user can do, for messages.

    Raises:
        LatentkitError: absent, gated or out of reach; one line each.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise LatentkitError(f"{where}.model={model}: this is a file; give the folder that holds config.json")
    if model.startswith(("/", ".", "~")) or "\\" in model or model.count("/") > 1:
        raise LatentkitError(f"{where}.model={model}: no such folder")
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=list(patterns), local_files_only=local_files_only
            )
        )
    except errors.GatedRepoError:
        text = (
            f"{model} is gated: accept the licence at https://huggingface.co/{model} and run `hf auth login`"
        )
    except errors.RevisionNotFoundError:
        text = f"{model} has no revision {revision}: check {where}.revision"
    except errors.RepositoryNotFoundError:
        text = f"{model} is not on the Hugging Face hub, or is private (then run `hf auth login`)"
    except errors.HFValidationError:
        text = f"{where}.model={model} is neither a folder nor a hub id"
    except errors.LocalEntryNotFoundError:
        reach = "the network is not to be used" if local_files_only else "the hub cannot be reached"
        text = f"{model} is not in the local cache, and {reach}"
    # The hub's client passes on the errors of whichever HTTP library its version uses.
    except Exception as error:
        text = f"{model} cannot be downloaded: {type(error).__name__}: {one_line(error)[:200]}"
    raise LatentkitError(f"{where.rpartition('.')[2]}: {text}; otherwise {otherwise}")
