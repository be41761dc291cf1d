"""latentkit: picture collections to latents and embeddings, with a written contract on every output.

Every verb is a command, ``python -m latentkit.encode dataset=folder``, and a function,
``latentkit.encode("dataset=folder")``.
"""

import importlib
from typing import cast

from latentkit.jobs.command import Verb

__version__ = "0.1.0"

VERBS = ("encode", "evaluate", "sync", "caption", "migrate", "prepare", "verify", "prune", "shard")


def __getattr__(name: str) -> Verb:
    if name in VERBS:
        return cast(Verb, importlib.import_module(f"latentkit.{name}"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *VERBS})
