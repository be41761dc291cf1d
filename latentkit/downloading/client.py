"""GET over kept-alive connections: retries, deadlines, redirects and resuming, into a file or a hash."""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

from latentkit import __version__
from latentkit.downloading.body import Body, FetchError, Sink
from latentkit.downloading.connections import network_reason, retry_after
from latentkit.downloading.watchdog import POOLS, Attempt, Stop, Watchdog
from latentkit.runtime.readable import readable_count

MAX_REDIRECTS = 5
MAX_WAIT = 60.0
"""Seconds between two attempts, at most, whatever ``Retry-After`` asks for."""

_FIRST_WAIT = 0.5
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_CHUNK = 1 << 16
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 416, 425, 429}
_T = TypeVar("_T")


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to end before this was done."""


class Client:
    """Fetches URLs, each in the thread that asks. A context manager.

    Args:
        connections: requests under way at one time; waiting for the next attempt is none.
        retries: further attempts after a failed one.
        deadline: seconds that one attempt may take, from its connection to its last byte.
        stop: once set, no attempt begins, and those under way have a few seconds.
    """

    def __init__(self, *, connections: int, retries: int, deadline: float, stop: Stop) -> None:
        self._slots = threading.BoundedSemaphore(connections)
        self._retries = retries
        self._deadline = deadline
        self._stop = stop
        self._watchdog = Watchdog(stop)
        self._pools = urllib3.PoolManager(
            num_pools=connections,
            maxsize=connections,
            headers={"Accept-Encoding": "identity", "User-Agent": f"latentkit/{__version__}"},
        )
        self._pools.pool_classes_by_scheme = POOLS

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.__exit__(kind, error, trace)
        self._pools.clear()

    def fetch(self, url: str, sink: Sink, limit: int) -> None:
        """Write the body of a URL into a sink that is empty.

        Connection errors, timeouts, 408, 425, 429, 5xx and bodies that end early are tried again after a
        growing, jittered wait or what ``Retry-After`` asks for. A body that ended early is resumed by
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
        attempt = 0
        while True:
            attempt += 1
            try:
                self._attempt(url, body)
                return
            except FetchError as error:
                if self._stop:
                    raise Stopped from None
                if error.final:
                    raise
                if attempt > self._retries:
                    raise FetchError(f"{error}, after {readable_count(attempt, 'attempt')}") from None
                if self._stop.wait(_pause(attempt, error.wait)):
                    raise Stopped from None

    def _attempt(self, url: str, body: Body) -> None:
        with self._slots:
            if self._stop:
                raise Stopped
            with self._watchdog.watching(self._deadline) as watched:
                response = self._open(url, body.headers(), watched)
                read = partial(response.read1, _CHUNK, decode_content=False)
                try:
                    _judge(response, body)
                    while data := self._guard(watched, url, read):
                        body.write(data)
                    if watched.cut:  # a body without a length ends as if it were whole
                        raise self._too_slow()
                    body.check_end()
                except BaseException:
                    response.close()
                    raise

    def _open(self, url: str, headers: dict[str, str], watched: Attempt) -> urllib3.BaseHTTPResponse:
        """The response at the end of the redirects."""
        scheme = _scheme(url)
        if scheme not in POOLS:
            raise FetchError("not an http or https URL", final=True)
        seen: list[str] = []
        while len(seen) <= MAX_REDIRECTS:
            seen.append(url)
            response = self._guard(watched, url, lambda: self._request(seen[-1], headers))
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            _discard(response)
            url = urljoin(url, location) if _scheme(location) is not None else location
            if (target := _scheme(url)) != scheme:
                raise FetchError(f"redirected from {scheme} to {target or 'no URL'}: refused", final=True)
            if url in seen:
                raise FetchError("a redirect loop", final=True)
        raise FetchError(f"over {MAX_REDIRECTS} redirects", final=True)

    def _request(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        return self._pools.request(
            "GET",
            url,
            headers={**self._pools.headers, **headers},
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=_TIMEOUT,
        )

    def _guard(self, watched: Attempt, url: str, ask: Callable[[], _T]) -> _T:
        """What the network gives, its dozen kinds of errors made one. `url` is for people."""
        try:
            return ask()
        except LocationParseError as error:
            raise FetchError(str(error), final=True) from None
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            if watched.cut:
                raise self._too_slow() from None
            raise FetchError(network_reason(error, url)) from None

    def _too_slow(self) -> FetchError:
        return FetchError(f"not done within {self._deadline:g} s")


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
        _discard(response)
        body.forget()
        transient = status in _TRANSIENT or status >= 500
        wait = retry_after(response.headers.get("Retry-After"))
        raise FetchError(f"HTTP {status} {response.reason or ''}", final=not transient, wait=wait)


def _scheme(url: str) -> str | None:
    """In lower case; empty for a relative URL, None for what is no URL."""
    try:
        return urlsplit(url).scheme.lower()
    except ValueError:
        return None


def _discard(response: urllib3.BaseHTTPResponse) -> None:
    """Read a short body to its end, so that the connection can be used again; close on a long one."""
    with contextlib.suppress(HTTPError, HTTPException, OSError, ValueError):
        for _ in range(4):
            if not response.read1(_CHUNK, decode_content=False):
                return
    response.close()


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds before an attempt, the first again being 1: what the server asks, else a doubling wait."""
    if asked is not None:
        return min(asked, MAX_WAIT) + random.uniform(0, _FIRST_WAIT)
    return min(_FIRST_WAIT * 2.0 ** (attempt - 1), MAX_WAIT) * random.uniform(0.5, 1)
