"""Networks from checked folders or from a seed: strict about every weight, silent on the terminal."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from latentkit.encoders.encoder import PretrainedEncoder
from latentkit.encoders.weights import Random
from latentkit.errors import LatentkitError, one_line


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Only errors, and no progress bars, from ``transformers`` or ``diffusers`` while it holds."""
    logging = importlib.import_module(f"{library}.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """LatentkitError, beginning with `what`, for whatever the readers of both libraries raise."""
    try:
        yield
    except Exception as error:
        raise LatentkitError(f"{what}: {one_line(error)[:200]}") from error


def load_model(encoder: PretrainedEncoder, network: Any, random: Callable[[Mapping[str, Any]], Any]) -> Any:
    """A transformers or diffusers model in float32 on the CPU, as the encoder declares it.

    Args:
        encoder: whose weights and configuration.
        network: the model's class.
        random: makes the model from a configuration, its weights drawn from torch's CPU generator.

    Raises:
        LatentkitError: the checkpoint does not fit the class.
    """
    with quiet(network.__module__.partition(".")[0]):
        if isinstance(encoder.weights, Random):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(encoder.weights.seed)
                return random(encoder.config)
        return from_folder(network, encoder.checkpoint.folder, torch.float32)


def from_folder(network: Any, folder: Path, dtype: torch.dtype) -> Any:
    """``from_pretrained`` on the CPU, every weight of the network accounted for.

    Weights that the network has no use for (a decoder beside an encoder) are ignored.

    Raises:
        LatentkitError: the files are missing, damaged, or do not fit the class.
    """
    options: dict[str, Any] = {"dtype": dtype, "ignore_mismatched_sizes": True}
    if network.__module__.startswith("diffusers."):  # names a mismatched weight only when it raises
        options = {"torch_dtype": dtype}
    with one_line_errors(f"{folder}: cannot be loaded as {network.__name__}"):
        model, info = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    mismatched = sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    for what, names in (("is missing", sorted(info["missing_keys"])), ("has another shape", mismatched)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise LatentkitError(f"{folder}: not a whole {network.__name__}: {names[0]}{more} {what}")
    return model
