"""A server with OpenAI's chat interface that looks at the pictures: each is of one colour, its number."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from PIL import Image

STEP = 12
"""Picture n is red = STEP n: a JPEG keeps that apart."""


def save_picture(path: Path, number: int, width: int = 40, height: int = 30) -> None:
    plain(number, width, height).save(path)


def plain(number: int, width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), (STEP * number, 90, 160))


@dataclass
class Reply:
    """What a server sends; `drip` seconds before each byte of the body."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drip: float = 0.0


def completion(text: str | None, finish: str = "stop", **message: Any) -> Reply:
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **message},
    }
    return Reply(json.dumps({"object": "chat.completion", "choices": [choice]}).encode())


def caption_of(number: int) -> str:
    return f"A plain surface, number {number}."


@dataclass
class ChatServer:
    """What is asked of it.

    Attributes:
        url: its interface, ending in ``/v1``.
        answer: (picture, how many times it was asked about before) -> reply.
        requests: each request's path, headers and JSON.
        asked: the pictures, in order.
        sizes: of the pictures as they arrived.
    """

    url: str = ""
    answer: Callable[[int, int], Reply] = lambda number, before: completion(caption_of(number))
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def handle(self, request: BaseHTTPRequestHandler) -> Reply:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        (message,) = body["messages"]
        text, picture = message["content"]
        assert (message["role"], text["type"], picture["type"]) == ("user", "text", "image_url")
        head, _, data = picture["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert image.format == "JPEG"
        number = round(image.convert("RGB").getpixel((0, 0))[0] / STEP)
        with self._lock:
            before = self.asked.count(number)
            self.asked.append(number)
            self.sizes.append(image.size)
            self.requests.append((request.path, dict(request.headers), body))
        return self.answer(number, before)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            reply = chat.handle(self)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                if not reply.drip:
                    self.wfile.write(reply.body)
                for byte in reply.body if reply.drip else b"":
                    time.sleep(reply.drip)
                    self.wfile.write(bytes([byte]))
            except OSError:  # the client has given up
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
