"""Work in threads with bounded memory: a few tasks are under way at a time, results come in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_THREADS = min(8, os.cpu_count() or 1)
_T = TypeVar("_T")
_R = TypeVar("_R")


def in_threads(work: Callable[[_T], _R], tasks: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
    """(task, result) of each, in order; what a task raises is raised here."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[tuple[_T, Future[_R]]] = deque()
        try:
            for task in tasks:
                waiting.append((task, pool.submit(work, task)))
                if len(waiting) > 2 * _THREADS:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, rest in waiting:
                rest.cancel()
