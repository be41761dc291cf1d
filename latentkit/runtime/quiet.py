"""Keeps the libraries' own chatter off the terminal: what a user sees there is ours."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence progress bars, tips and warnings that a user of latentkit cannot act on.

    To be called once more after Lightning was imported, which sets its loggers' levels itself.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    lightning = ("lightning", "lightning.pytorch", "lightning.fabric")
    for name in (*lightning, "torch", "transformers", "diffusers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "torch", "transformers", "diffusers", "huggingface_hub"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
