"""What the prediction loop hands to a store, all on the host: encoded batches, and failures up to a limit."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentkit.errors import LatentkitError
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


class TooManyFailuresError(LatentkitError):
    """More than the allowed share of the collection failed."""


class FailureLimit:
    """Counts failed pictures and stops the run beyond a share of the collection.

    Args:
        record: takes each failure to the quarantine ledger.
        collection: pictures in the collection.
        share: ``max_failures``, 0 <= share <= 1.
        already: keys of pictures that earlier runs quarantined and that are still held, so that a resumed
            run stops where an uninterrupted one would.
    """

    def __init__(
        self, record: Callable[[Failure], None], collection: int, share: float, already: Iterable[str] = ()
    ) -> None:
        self._record, self._collection, self._share = record, collection, share
        self._keys = set(already)

    def __call__(self, failure: Failure) -> None:
        """Record a failure. Raises TooManyFailuresError once the share is passed."""
        self._record(failure)
        self._keys.add(failure.key)
        failed = len(self._keys)
        if failed / self._collection > self._share:
            raise TooManyFailuresError(
                f"{failed} of {self._collection} pictures failed, more than max_failures={self._share:g} "
                f"allows; the last: {failure.key}: {failure.reason} "
                "(what is published is kept; quarantine.jsonl names all; raise max_failures to go on)"
            )
