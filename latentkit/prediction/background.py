"""A thread between the loop and the disk: a bounded queue, whose errors surface in the loop."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

BATCHES_IN_FLIGHT = 8

_T = TypeVar("_T")


class BackgroundThread(Generic[_T]):
    """Takes results in their order, in a thread of its own. A context manager.

    All that are waiting are handed over at once: syncing many files takes hardly longer than one. The queue
    is bounded: when the disk is slower than the device, the loop waits instead of filling memory. `put`,
    `flush` and leaving the context raise what `hand_over` raised.

    Args:
        name: the thread's.
        hand_over: called in the thread with at least one result.
    """

    def __init__(self, name: str, hand_over: Callable[[Sequence[_T]], object]) -> None:
        self._hand_over = hand_over
        self._queue: queue.Queue[_T | None] = queue.Queue(BATCHES_IN_FLIGHT)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, result: _T) -> None:
        """Queue a result; waits while the queue is full."""
        self._raise()
        self._queue.put(result)

    def flush(self) -> None:
        """Wait until everything that was put is published."""
        self._queue.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        ended = False
        while not ended:
            waiting = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(waiting) < BATCHES_IN_FLIGHT:
                    waiting.append(self._queue.get_nowait())
            ended = None in waiting
            results = [result for result in waiting if result is not None]
            try:
                # After an error the queue is still emptied, so that the loop never blocks on a dead writer.
                if results and self._error is None:
                    self._hand_over(results)
            except BaseException as error:
                self._error = error
            finally:
                for _ in waiting:
                    self._queue.task_done()
