"""The two errors that end a command with one line and no traceback, and the words of any other."""


class LatentkitError(Exception):
    """Something that a user can act on went wrong; its text is one clear line. Exit status 1."""


class UsageError(LatentkitError):
    """The command or its configuration is wrong: nothing was started. Exit status 2."""


def one_line(error: BaseException) -> str:
    """An error's text without its line breaks; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
