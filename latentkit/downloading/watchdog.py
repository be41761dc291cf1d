"""Deadlines for whole requests: a server that dribbles keeps every single read within its timeout."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

TICK = 0.1
"""Seconds between two looks at the clock."""

GRACE = 5.0
"""Seconds that requests may still take once a stop was asked for."""


class Stop:
    """That a run should end. Setting it takes no lock: a signal handler may."""

    def __init__(self) -> None:
        self._since: float | None = None

    def set(self) -> None:
        """Ask for it."""
        if self._since is None:
            self._since = time.monotonic()

    def __bool__(self) -> bool:
        return self._since is not None

    @property
    def overdue(self) -> bool:
        """Whether it was asked for over `GRACE` seconds ago."""
        return self._since is not None and time.monotonic() - self._since > GRACE

    def wait(self, seconds: float) -> bool:
        """Sleep, but not on when asked to stop. Whether it was."""
        end = time.monotonic() + seconds
        while not self and (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK, left))
        return bool(self)


class Attempt:
    """One request: when it must be over, and whether it was cut for that."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.cut = False
        self.socket: socket.socket | None = None


class Watchdog(threading.Thread):
    """Shuts down the sockets of requests that are past their end. A context manager.

    Args:
        stop: when this is overdue, every request is past its end.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stop_asked = stop
        self._attempts: set[Attempt] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()

    @contextmanager
    def watching(self, seconds: float) -> Iterator[Attempt]:
        """Cut whatever this thread requests inside, if it takes longer than so many seconds."""
        attempt = _current.attempt = Attempt(seconds)
        with self._lock:
            self._attempts.add(attempt)
        try:
            yield attempt
        finally:
            _current.attempt = None
            with self._lock:
                self._attempts.discard(attempt)

    def run(self) -> None:
        while not self._over.wait(TICK):
            now = time.monotonic()
            with self._lock:
                for attempt in self._attempts:
                    if now > attempt.end or self._stop_asked.overdue:
                        attempt.cut = True
                        if attempt.socket is not None:
                            with contextlib.suppress(OSError):  # the peer was faster
                                socket.socket.shutdown(attempt.socket, socket.SHUT_RDWR)


class _Current(threading.local):
    """The attempt of this thread."""

    attempt: Attempt | None = None

    def uses(self, connection: HTTPConnection) -> None:
        if self.attempt is not None and connection.sock is not None:
            self.attempt.socket = connection.sock


_current = _Current()


class _Watched(HTTPConnection):
    """Tells the attempt which socket it goes over, a new one or one that was kept alive."""

    def connect(self) -> None:
        super().connect()
        _current.uses(self)

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        _current.uses(self)
        super().putrequest(method, url, skip_host, skip_accept_encoding)


class _WatchedSecure(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _WatchedSecure


POOLS = {"http": _Pool, "https": _SecurePool}
"""For `urllib3.PoolManager.pool_classes_by_scheme`: their requests can be watched."""
