"""A verb as a command, and as a function of Python.

Exit status: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, with something quarantined;
130 interrupted. In a sweep the worst job's status is the command's. Importing this and a verb is quick: what
takes its time is imported where Ctrl-C is heard.
"""

import importlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from latentkit.runtime.exit_status import INTERRUPTED


@dataclass(frozen=True)
class Command:
    """A verb's entry point; called, it runs ``sys.argv`` and exits.

    Attributes:
        name: of the verb, and of its YAML in ``conf/``.
        job: dotted name of the function ``(cfg) -> Outcome`` that does the work.
        complete: the arguments as given -> those that Hydra gets, with what a given one implies.
    """

    name: str
    job: str
    complete: Callable[[list[str]], list[str]] = list

    def __call__(self) -> NoReturn:
        sys.exit(self.run(sys.argv[1:]))

    def run(self, arguments: Sequence[str]) -> int:
        """What the command does with these arguments: prints; returns the exit status."""
        with _sigterm_as_ctrl_c():
            try:
                from latentkit.jobs.composition import compose_and_run

                return compose_and_run(self.name, self.job, self.complete(list(arguments)))
            except KeyboardInterrupt:
                print("latentkit: interrupted; what was published is whole", file=sys.stderr)
                return INTERRUPTED


class Verb(ModuleType):
    """The module of a verb, which can be called: ``latentkit.encode("dataset=folder", limit=3)``."""

    main: Command

    def __call__(
        self, *overrides: str, config_dir: str | Path | None = None, **values: object
    ) -> dict[str, Any]:
        """Run the verb in this process, as often as you like.

        Args:
            overrides: as on the command line: ``"dataset=folder"``, ``"dataset.root=PHOTOS"``. No flags.
            config_dir: a folder of YAML files of your own, as with ``--config-dir``.
            values: the same as Python values, which need no quoting: ``limit=3``,
                ``**{"dataset.root": path}``.

        Returns:
            What the verb writes as JSON: encode's ``summary.json``, evaluate's ``report.json``, verify's
            findings. Read there what the exit status of the command tells.

        Raises:
            UsageError: the overrides are wrong; nothing was started.
            LatentkitError: the command would have ended with this line.
            KeyboardInterrupt: it was interrupted; what was published is whole.
        """
        from latentkit.jobs.composition import call

        words = self.main.complete([*overrides, *as_overrides(values)])
        return call(self.main.name, self.main.job, words, config_dir)


def command(name: str, job: str, complete: Callable[[list[str]], list[str]] = list) -> Command:
    """The `Command` of a verb. Makes the verb's module, which calls this, a `Verb`."""
    if module := sys.modules.get(f"latentkit.{name}"):
        module.__class__ = Verb
    return Command(name, job, complete)


def run(verb: str, arguments: Sequence[str]) -> int:
    """``python -m latentkit.VERB ARGUMENTS`` in this process: prints; returns the exit status."""
    main: Command = importlib.import_module(f"latentkit.{verb}").main
    return main.run(arguments)


def as_overrides(values: Mapping[str, object]) -> list[str]:
    """``key=value`` in Hydra's grammar.

    Args:
        values: key -> text of any characters, path, number, bool, None, or a list of such.
    """
    return [f"{key}={_quoted(value)}" for key, value in values.items()]


def _quoted(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_quoted, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    text = re.sub(r"(\\*)(?='|$)", r"\1\1", str(value)).replace("'", "\\'")
    return f"'{text}'"


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
