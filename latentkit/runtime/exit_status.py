"""What a command ends with. In a sweep the worst run's status is the command's."""

DONE = 0
FAILED = 1
WRONG_USAGE = 2
QUARANTINED = 3
"""Done, with something quarantined or left out."""
INTERRUPTED = 130
