"""HTTP over kept-alive connections, with retries, deadlines, redirects and resuming.

urllib3's own retries end once a response's header has arrived, and wait with the connection in hand. The
loop here also covers bodies that end early, a 200 in place of the 206 that was asked for, and waits
(``Retry-After``) that hold up no other download.
"""

import contextlib
import io
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.client import HTTPException
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urljoin

import urllib3
from urllib3 import exceptions
from urllib3.exceptions import HTTPError

from latentkit import __version__
from latentkit.downloading.body import Body, FetchError
from latentkit.downloading.deadline import POOLS, Deadline, Stop, current

MAX_REDIRECTS = 5
MAX_WAIT = 60.0
"""Seconds between two attempts, at most, whatever ``Retry-After`` asks for."""

_CONNECT = 10.0
_SILENCE = 30.0
_FIRST_WAIT = 0.5
_CHUNK = 1 << 16
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 409, 416, 425, 429}
_T = TypeVar("_T")


def is_http(url: str) -> bool:
    """Whether it is an http or https URL with a host."""
    with contextlib.suppress(exceptions.LocationParseError):
        parts = urllib3.util.parse_url(url)
        return parts.scheme in POOLS and bool(parts.host)
    return False


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to end before this was done."""


class Client:
    """Makes requests, each in the thread that asks.

    Args:
        connections: requests under way at one time; waiting for the next attempt is none.
        retries: further attempts after a failed one.
        deadline: seconds, from the connection to the last byte: of one attempt to fetch, of all to post.
        stop: once set, no attempt begins, and those under way have a few seconds.
    """

    def __init__(self, *, connections: int, retries: int, deadline: float, stop: Stop) -> None:
        self._slots = threading.BoundedSemaphore(connections)
        self._retries = retries
        self._deadline = deadline
        self._stop = stop
        headers = {"Accept-Encoding": "identity", "User-Agent": f"latentkit/{__version__}"}
        self._pools = urllib3.PoolManager(num_pools=connections, maxsize=connections, headers=headers)
        self._pools.pool_classes_by_scheme = POOLS

    def fetch(self, url: str, sink: BinaryIO, limit: int) -> None:
        """Write the body of a URL into a sink that is empty.

        Connection errors, timeouts, 408, 409, 425, 429, 5xx and bodies that end early are tried again after
        a growing, jittered wait or what ``Retry-After`` asks for. A body that ended early is resumed by
        ``Range`` when the server named it by a strong ``ETag``; after 416 it begins again.

        Args:
            url: http or https. Redirects stay within its scheme.
            sink: takes the body.
            limit: bytes that a body may have.

        Raises:
            FetchError: it cannot be had.
            Stopped: the run ends.
            OSError: the sink's own.
        """
        body = Body(sink, limit)

        def attempt() -> None:
            current.set(Deadline(self._deadline, self._stop))
            _receive(self._open(url, body.headers()), url, body)

        self._persist(attempt)

    def post(
        self, url: str, data: bytes, headers: Mapping[str, str], limit: int, parse: Callable[[bytes], _T]
    ) -> _T:
        """What a server answers. Retried as `fetch` is; redirects are not followed.

        Args:
            url: http or https.
            data: the request's body.
            headers: of the request, beside our own.
            limit: bytes that an answer may have.
            parse: makes the result of a body; raises FetchError for one that may be better the next time.

        Raises:
            FetchError: there is no answer.
            Stopped: the run ends.
        """
        deadline = Deadline(self._deadline, self._stop)

        def attempt() -> _T:
            current.set(deadline)
            sink = io.BytesIO()
            _receive(self._request("POST", url, headers, data), url, Body(sink, limit))
            return parse(sink.getvalue())

        return self._persist(attempt, deadline)

    def _persist(self, attempt: Callable[[], _T], deadline: Deadline | None = None) -> _T:
        """The first attempt that succeeds, within as many as there are retries and before the deadline."""
        number, pause = 0, 0.0
        while not self._stop.wait(pause):
            number += 1
            try:
                with self._slots:
                    if not self._stop:
                        return attempt()
            except FetchError as error:
                pause = _pause(number, error.wait)
                late = deadline is not None and pause >= deadline.left
                if not self._stop and (error.final or late or number > self._retries):
                    error.attempts = 0 if error.final else number
                    raise
        raise Stopped

    def _open(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The response at the end of the redirects."""
        scheme = _scheme(url)
        if scheme not in POOLS:
            raise FetchError("not an http or https URL", final=True)
        seen: list[str] = []
        while len(seen) <= MAX_REDIRECTS:
            seen.append(url)
            response = self._request("GET", url, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            _read_short(response)
            with _network(url):
                url = urljoin(url, location)
            if (target := _scheme(url)) != scheme:
                raise FetchError(f"redirected from {scheme} to {target}: refused", final=True)
            if url in seen:
                raise FetchError("a redirect loop", final=True)
        raise FetchError(f"over {MAX_REDIRECTS} redirects", final=True)

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        left = max(current.get().left, 0.001)
        timeout = urllib3.Timeout(connect=min(_CONNECT, left), read=_SILENCE if data is None else left)
        all_headers = {**self._pools.headers, **headers}
        ours: dict[str, Any] = {"preload_content": False, "redirect": False, "retries": False}
        with _network(url):
            return self._pools.request(method, url, data, headers=all_headers, timeout=timeout, **ours)


def _receive(response: urllib3.BaseHTTPResponse, url: str, body: Body) -> None:
    read = _network(url)(partial(response.read1, _CHUNK, decode_content=False))
    try:
        _judge(response, body)
        while data := read():
            body.write(data)
        body.check_end()
    except BaseException:
        response.close()
        raise


def _judge(response: urllib3.BaseHTTPResponse, body: Body) -> None:
    """Make ready for the response's body, or refuse it."""
    status = response.status
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity" and status in (200, 206):
        raise FetchError(f"sent with the encoding {encoding}, which was not asked for", final=True)
    if status == 200:
        length = response.headers.get("Content-Length", "")
        body.begin(response.headers.get("ETag"), int(length) if re.fullmatch(r"\d{1,18}", length) else None)
    elif status == 206:
        body.resume(response.headers.get("Content-Range", ""))
    else:
        body.forget()
        raise FetchError(
            f"HTTP {status} {response.reason or ''}",
            final=status not in _TRANSIENT and status < 500,
            wait=_retry_after(response),
            status=status,
            body=_read_short(response),
        )


@contextlib.contextmanager
def _network(url: str) -> Iterator[None]:
    """Make the dozen kinds of errors of the network one. `url` is what urllib3 was asked for."""
    try:
        yield
    except exceptions.LocationParseError as error:
        raise FetchError(str(error), final=True) from None
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        deadline = current.get()
        if isinstance(error, exceptions.ConnectTimeoutError):  # NewConnectionError is one
            asked = urllib3.util.parse_url(url)
            port = asked.port or (443 if asked.scheme == "https" else 80)
            cause = getattr(error.__cause__, "strerror", None) or "no answer"
            reason = f"cannot reach {asked.host}:{port}: {cause.lower()}"
            raise FetchError(reason, reached=False) from None
        if deadline.left <= 0:
            raise FetchError(f"not done within {deadline.seconds:g} s") from None
        inner = error.args[-1] if isinstance(error, exceptions.ProtocolError) and error.args else error
        if isinstance(inner, exceptions.IncompleteRead):
            total = inner.partial + inner.expected
            raise FetchError(f"{inner.partial:,} of {total:,} bytes") from None
        raise FetchError(str(inner) or type(inner).__name__) from None


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _read_short(response: urllib3.BaseHTTPResponse) -> bytes:
    """A short body, to its end, so that the connection can be used again; of a long one the beginning."""
    data = b""
    with contextlib.suppress(HTTPError, HTTPException, OSError, ValueError):
        for _ in range(4):
            if not (chunk := response.read1(_CHUNK, decode_content=False)):
                return data
            data += chunk
    response.close()
    return data


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    """Seconds from ``Retry-After`` as a number or a date; None without one that can be read."""
    try:
        return urllib3.Retry().get_retry_after(response)
    except (HTTPError, ValueError, OverflowError):
        return None


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds before the next attempt after this one, from 1: what the server asks, else a doubling wait."""
    if asked is not None:
        return min(asked, MAX_WAIT) + random.uniform(0, _FIRST_WAIT)
    return min(_FIRST_WAIT * 2.0 ** (attempt - 1), MAX_WAIT) * random.uniform(0.5, 1)
