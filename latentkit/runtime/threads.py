"""Work in threads: a bounded number of tasks at a time, their results as they come."""

import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def as_they_end(
    work: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    threads: int,
    ahead: int,
    stop: Callable[[], object],
) -> Generator[tuple[_Task, Future[_Result]], None, None]:
    """Each task and its future, as soon as it is done. Tasks are taken as there is room for them.

    When it ends early, by an error or because it is closed, it waits for the tasks that are under way.

    Args:
        work: is called in a thread for each task.
        tasks: may be taken slowly, and from what becomes of earlier ones.
        threads: how many.
        ahead: most tasks that are taken and not done.
        stop: asks those under way to end soon; called only when it ends early.
    """
    under_way: dict[Future[_Result], _Task] = {}
    more, pool = iter(tasks), ThreadPoolExecutor(threads)
    try:
        while True:
            for task in itertools.islice(more, ahead - len(under_way)):
                under_way[pool.submit(work, task)] = task
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                yield under_way.pop(future), future
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
