"""The two errors that end a command with one line and no traceback."""


class LatentkitError(Exception):
    """Something that a user can act on went wrong; its text is one clear line. Exit status 1."""


class UsageError(LatentkitError):
    """The command or its configuration is wrong: nothing was started. Exit status 2."""
