"""Bad pictures go to the ledger and the run goes on, until too many have failed."""

from collections.abc import Callable, Iterable

from latentkit.errors import LatentkitError
from latentkit.prediction.results import Failure


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
        self._record = record
        self._collection = collection
        self._share = share
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
