"""Total deadlines for requests, and the wish to stop.

urllib3's timeouts are for single receives: a server that sends a byte a second, in the header or in the body,
keeps within every one of them.
"""

import io
import math
import time
from contextvars import ContextVar
from http.client import HTTPResponse
from socket import socket
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

TICK = 0.1
"""Seconds between two looks at the clock."""

GRACE = 5.0
"""Seconds that requests may still take once a stop was asked for."""


class Stop:
    """Whether a run should end. Setting it takes no lock, so a signal handler may.

    Args:
        grace: seconds that requests under way may still take.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self.end = math.inf
        """When requests under way must be over, on the monotonic clock."""

    def set(self) -> None:
        self.end = min(self.end, time.monotonic() + self._grace)

    def __bool__(self) -> bool:
        return self.end < math.inf

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over or a stop is asked for. Returns whether it was."""
        end = time.monotonic() + seconds
        while not self and (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK, left))
        return bool(self)


class Deadline:
    """When a request must be over: after so many seconds, or soon after a stop was asked for."""

    def __init__(self, seconds: float, stop: Stop) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._stop = stop

    @property
    def left(self) -> float:
        """Seconds until then; at most 0 once it has passed."""
        return min(self._end, self._stop.end) - time.monotonic()


current: ContextVar[Deadline] = ContextVar("deadline")
"""The deadline of the request that this thread makes. Must be set before a pool of `POOLS` is used."""


class _Received(io.RawIOBase):
    """The bytes that a socket receives. Each receive ends at the deadline, or at the socket's timeout."""

    def __init__(self, raw: io.RawIOBase, sock: socket) -> None:
        self._raw = raw
        self._socket = sock
        self._deadline = current.get()
        self._silence: Any = sock.gettimeout()  # every request has one

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = time.monotonic() + self._silence
        try:
            while (left := min(self._deadline.left, end - time.monotonic())) > 0:
                self._socket.settimeout(min(TICK, left))
                try:
                    return self._socket.recv_into(buffer)
                except TimeoutError:
                    continue
        finally:
            self._socket.settimeout(self._silence)
        raise TimeoutError("no answer")

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Received(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}
"""For `urllib3.PoolManager.pool_classes_by_scheme`: their requests keep to the deadline that is `current`."""
