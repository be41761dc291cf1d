"""A verb as a command: Hydra composes, the verb returns an exit status, errors are one line.

Exit status: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, with something quarantined;
130 interrupted. In a sweep the worst job's status is the command's. Importing this and a verb is quick: what
takes its time is imported where Ctrl-C is heard.
"""

from __future__ import annotations

import functools
import importlib
import re
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from latentkit.runtime.exit_status import INTERRUPTED

if TYPE_CHECKING:
    from omegaconf import DictConfig


def command(
    config_name: str, *, complete: Callable[[list[str]], list[str]] = list
) -> Callable[[Callable[[DictConfig], int]], Callable[[], NoReturn]]:
    """Turn ``verb(cfg) -> exit status`` into a console entry point that composes ``conf/<config_name>``.

    Args:
        config_name: the verb's YAML.
        complete: the arguments as typed -> those that Hydra gets, with what a typed one implies.
    """

    def decorate(verb: Callable[[DictConfig], int]) -> Callable[[], NoReturn]:
        @functools.wraps(verb)
        def main() -> NoReturn:
            signal.signal(signal.SIGTERM, _as_ctrl_c)
            try:
                from latentkit.jobs.composition import compose_and_run

                status = compose_and_run(verb, config_name, complete)
            except KeyboardInterrupt:
                print("latentkit: interrupted; what was published is whole", file=sys.stderr)
                status = INTERRUPTED
            sys.exit(status)

        return main

    return decorate


def call(verb: str, values: Mapping[str, object]) -> int:
    """Run a verb from Python as its command line would.

    Args:
        verb: ``encode``, ``sync`` ...
        values: key -> value as Python has it: text of any characters, number, bool, or a list of such; None
            leaves the key at its default.

    Returns:
        Its exit status.
    """
    sys.argv = [verb, *(f"{key}={_quoted(value)}" for key, value in values.items() if value is not None)]
    try:
        importlib.import_module(f"latentkit.{verb}").main()
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("a command always ends with SystemExit")


def _quoted(value: object) -> str:
    """A value in Hydra's grammar for overrides."""
    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    text = re.sub(r"(\\*)(?='|$)", r"\1\1", str(value)).replace("'", "\\'")
    return f"'{text}'"


def _as_ctrl_c(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
