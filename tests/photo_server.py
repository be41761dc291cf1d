"""A crawler's list and its photos, over real HTTP on loopback; it misbehaves where it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit


class Request(NamedTuple):
    """One that was answered: its path with the query, its headers, and when it came (monotonic seconds)."""

    path: str
    headers: dict[str, str]
    time: float


Behaviour = Callable[["Answer", int], None]
"""Answers the n-th request (from 1) of a path in place of what is right."""


class PhotoServer:
    """``/photos.json?page=N`` and ``/photo/<name>``. A context manager.

    Args:
        photos: name -> bytes. May be changed at any time: a name taken away is withdrawn from the list.
        page_size: entries a page.
        behaviours: path (with the query, as it is requested) -> what happens there.

    Attributes:
        entries: the list's entries as they are; None to make them of `photos`.
        requests: all of them, in order.
        connections: how many were made.
    """

    def __init__(
        self,
        photos: dict[str, bytes],
        page_size: int = 100,
        behaviours: dict[str, Behaviour] | None = None,
    ) -> None:
        self.photos = photos
        self.page_size = page_size
        self.behaviours = behaviours or {}
        self.entries: list[Any] | None = None
        self.requests: list[Request] = []
        self.connections = 0
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.base_url = f"{self.origin}/photos.json"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, name: str) -> str:
        """Where a photo is."""
        return f"{self.origin}/photo/{quote(name)}"

    def entry(self, name: str, **fields: Any) -> dict[str, Any]:
        """The list's entry of a photo."""
        return {"filename": name, "exportable_url": self.url(name), **fields}

    def fetched(self) -> Counter[str]:
        """Photo -> how often it was asked for."""
        paths = [request.path for request in self.requests if request.path.startswith("/photo/")]
        return Counter(unquote(path.removeprefix("/photo/")) for path in paths)

    def count(self, request: Request) -> int:
        with self._lock:
            self.requests.append(request)
            self._counts[request.path] += 1
            return self._counts[request.path]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, photos: PhotoServer) -> None:
        self.owner = photos
        super().__init__(("127.0.0.1", 0), Answer)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no error here."""


class Answer(BaseHTTPRequestHandler):
    """One connection; behaviours write to it."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        owner = self.server.owner
        number = owner.count(Request(self.path, dict(self.headers), time.monotonic()))
        behaviour = owner.behaviours.get(self.path)
        if behaviour is not None:
            behaviour(self, number)
        else:
            self.right()

    def right(self) -> None:
        """What a good server answers."""
        owner, parts = self.server.owner, urlsplit(self.path)
        name = unquote(parts.path.removeprefix("/photo/"))
        if parts.path == "/photos.json":
            page, size = int(parse_qs(parts.query)["page"][0]), owner.page_size
            entries = owner.entries
            if entries is None:
                entries = [owner.entry(name) for name in sorted(owner.photos)]
            self.send(200, json.dumps(entries[(page - 1) * size : page * size]).encode())
        elif parts.path.startswith("/photo/") and name in owner.photos:
            self.send(200, owner.photos[name])
        else:
            self.send(404, b"no such photo")

    def photo(self) -> bytes:
        """The bytes of the photo that was asked for."""
        return self.server.owner.photos[unquote(self.path.removeprefix("/photo/"))]

    def send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        """An answer; `length` is what Content-Length says, -1 leaves it out and ends the connection."""
        self.send_response(status)
        if length == -1:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        if length is not None:
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection after what was sent."""
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass
