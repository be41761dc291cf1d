"""Ctrl-C and SIGTERM end a run after the batch in hand; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While inside, the first SIGINT or SIGTERM is noted and calls `stop`; the next raises KeyboardInterrupt.

    Python gives signals to the main thread alone: in any other this does nothing.

    Args:
        stop: asks the run to end.
        patient: let every further signal call `stop` too. For the processes that another one started: these
            get a signal twice, from the terminal and from that one, which kills them if it must.

    Attributes:
        asked: whether there was one.
    """

    def __init__(self, stop: Callable[[], object] = lambda: None, *, patient: bool = False) -> None:
        self._stop, self._patient, self.asked = stop, patient, False

    def __enter__(self) -> Self:
        heard = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.getsignal(number) for number in heard}
        self.install()
        return self

    def install(self) -> None:
        """Take the signals, also from whoever took them in the meantime."""
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked and not self._patient:
            raise KeyboardInterrupt
        self.asked = True
        self._stop()
