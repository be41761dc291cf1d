"""What a command ends with. In a sweep the worst run's status is the command's."""

from typing import Any, NamedTuple

DONE = 0
FAILED = 1
WRONG_USAGE = 2
QUARANTINED = 3
"""Done, with something quarantined or left out."""
INTERRUPTED = 130


class Outcome(NamedTuple):
    """What came of a job: the command's exit status, and what a caller from Python gets (JSON values)."""

    status: int
    result: dict[str, Any]
