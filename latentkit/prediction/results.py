"""What the prediction loop hands to a store: encoded batches and failures, all on the host."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from latentkit.sources.source import Fingerprint


@dataclass(frozen=True, slots=True)
class Encoded:
    """The outputs of one encoder for a few pictures.

    Attributes:
        encoder: the encoder's name.
        indices: each picture's index in the source.
        keys: each picture's key.
        arrays: output name -> array of shape [len(keys), ...] in the stored dtype, finite everywhere.
        facts: for each picture what its record says of it (JSON values): ``width``, ``height``,
            ``aspect_bucket``, ``tokens`` ...
        sources: what each picture's output was made from.
    """

    encoder: str
    indices: list[int]
    keys: list[str]
    arrays: dict[str, np.ndarray]
    facts: list[dict[str, Any]]
    sources: list[Fingerprint]


@dataclass(frozen=True, slots=True)
class Failure:
    """One picture that could not be encoded.

    Attributes:
        index, key: which picture.
        stage: ``read``, ``decode``, ``caption`` or ``encode``.
        reason: one line that a user can act on.
        encoders: the encoders that go without it.
        source: the bytes that failed, when they could be read; a picture is tried again when these change.
    """

    index: int
    key: str
    stage: str
    reason: str
    encoders: tuple[str, ...]
    source: Fingerprint | None
