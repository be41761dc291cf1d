"""Captions from any server with OpenAI's chat interface: Ollama, vLLM, llama.cpp, a hosted one.

``POST <url>/chat/completions`` with the picture as a ``data:`` URL, as described in
https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import urllib3
from PIL import Image

from latentkit.captioning.captioner import Answer, Captioner, Describe, judge
from latentkit.downloading.connections import failed_to_connect, network_reason, retry_after
from latentkit.errors import LatentkitError, UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

JPEG_QUALITY = 90
LONGEST_WAIT = 30.0
MAX_BYTES = 2**20
IN_A_ROW = 3
"""Pictures that a server fails to answer, one after the other: then it is not the pictures."""

_BUSY = frozenset({408, 409, 425, 429})
_PICTURE = frozenset({400, 413, 415, 422})
_ADVICE = {
    401: "set caption.api_key_env to the environment variable that holds the key",
    403: "the key may not use this model",
    404: "check caption.url and caption.model",
}


class _TryAgainError(Exception):
    """It may work later. `after`: seconds that the server asked to wait. `reached`: a server answered."""

    def __init__(self, reason: str, after: float = 0.0, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.after, self.reached = after, reached


class _Unanswered(NamedTuple):
    """The server had no answer for a picture, in all tries."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class OpenAICaptioner(Captioner):
    """A model behind HTTP, asked about several pictures at once.

    A busy or failing server is asked again, after twice as long each time or as long as it says. What it
    does not take is the picture's failure, and so is one picture at which it fails alone. That it fails at
    several in a row, that nobody answers, or not to us, ends the run.

    Attributes:
        url: of the interface, up to and with ``/v1``.
        api_key_env: name of the environment variable that holds the key; None sends none.
        longest_side: of the JPEG that is sent, in pixels; larger pictures are scaled down.
        concurrency: pictures at once.
        retries: of one picture, after the first try.
        deadline: seconds for one picture, all tries and waits together.
    """

    url: str
    api_key_env: str | None = None
    longest_side: int = 1024
    concurrency: int = 4
    retries: int = 5
    deadline: float = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"caption.url={self.url}: give http://HOST:PORT/v1 or https://HOST/v1")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise UsageError(f"caption.api_key_env={self.api_key_env}: this environment variable is not set")
        for option, least in (("longest_side", 16), ("concurrency", 1), ("retries", 0), ("deadline", 1)):
            self.require_at_least(option, least)

    @contextmanager
    def open(self) -> Iterator[Describe]:
        """See `Captioner.open`."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env]}"
        with urllib3.PoolManager(maxsize=self.concurrency, headers=headers, retries=False) as pool:
            yield lambda pictures: self._judged(self._describe(pool, pictures))

    def _judged(self, answers: Iterable[Answer | _Unanswered]) -> Iterator[Answer]:
        """Whose fault it was: the picture's when others before or after it are answered, else the server's.

        Raises:
            LatentkitError: `IN_A_ROW` pictures had no answer, one after the other.
        """
        held: list[Answer] = []
        for answer in answers:
            if isinstance(answer, _Unanswered):
                held.append(Answer(answer.number, reason=answer.reason))
                if len(held) == IN_A_ROW:
                    raise LatentkitError(
                        f"{self.url} fails, {IN_A_ROW} pictures in a row; the last: {answer.reason}; see to "
                        "the server and start again; captions that were written are kept"
                    )
                continue
            yield from held
            held.clear()
            yield answer
        yield from held

    def _describe(
        self, pool: urllib3.PoolManager, pictures: Iterable[tuple[int, Image.Image]]
    ) -> Iterator[Answer | _Unanswered]:
        """Keep `concurrency` requests under way. The threads are daemons: leaving waits for none of them."""
        work: queue.SimpleQueue[tuple[int, Image.Image] | None] = queue.SimpleQueue()
        answers: queue.SimpleQueue[Answer | _Unanswered | BaseException] = queue.SimpleQueue()

        def answer_all() -> None:
            while (job := work.get()) is not None:
                try:
                    answers.put(self._ask(pool, *job))
                except BaseException as error:
                    answers.put(error)

        for _ in range(self.concurrency):
            threading.Thread(target=answer_all, daemon=True).start()
        under_way = 0
        try:
            for job in pictures:
                work.put(job)
                under_way += 1
                while under_way == self.concurrency or not answers.empty():
                    yield _taken(answers)
                    under_way -= 1
            for _ in range(under_way):
                yield _taken(answers)
        finally:
            for _ in range(self.concurrency):
                work.put(None)

    def _ask(self, pool: urllib3.PoolManager, number: int, image: Image.Image) -> Answer | _Unanswered:
        """Ask until there is an answer, and as often as may be.

        Raises:
            LatentkitError: nobody can be reached, or the server does not serve us.
        """
        body = self._request(image)
        until = time.monotonic() + self.deadline
        wait = 0.5
        for tries_left in range(self.retries, -1, -1):
            try:
                return self._answer(number, *self._post(pool, body, until))
            except _TryAgainError as problem:
                pause = problem.after + wait * random.uniform(0.5, 1)
                wait = min(2 * wait, LONGEST_WAIT)
                if not tries_left or time.monotonic() + pause > until:
                    if not problem.reached:
                        raise LatentkitError(
                            f"{problem}; start the server, or give caption.url=URL; "
                            "captions that were written are kept"
                        ) from None
                    return _Unanswered(number, str(problem))
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _request(self, image: Image.Image) -> bytes:
        small = image.copy()
        small.thumbnail((self.longest_side, self.longest_side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=JPEG_QUALITY)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        content = [
            {"type": "text", "text": self.prompt},
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
        ]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": 0,
            "stream": False,
        }
        return json.dumps(request).encode("ascii")

    def _post(self, pool: urllib3.PoolManager, body: bytes, until: float) -> tuple[BaseHTTPResponse, bytes]:
        """One request; the whole response is read before `until`."""
        left = max(0.1, until - time.monotonic())
        data = bytearray()
        try:
            response = pool.request(
                "POST",
                f"{self.url.rstrip('/')}/chat/completions",
                body=body,
                timeout=urllib3.Timeout(connect=min(10.0, left), read=left),
                preload_content=False,
                redirect=False,
            )
            with response:
                while chunk := response.read1(2**16):
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise _TryAgainError(f"the server's answer has over {MAX_BYTES:,} bytes")
                    if time.monotonic() > until:
                        raise _TryAgainError(f"no whole answer within {self.deadline:g} s")
                response.release_conn()
        except urllib3.exceptions.ReadTimeoutError:
            raise _TryAgainError(f"no answer within {self.deadline:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            reason = _one_line(network_reason(error, self.url))
            if failed_to_connect(error):
                raise _TryAgainError(reason, reached=False) from None
            raise _TryAgainError(f"the connection broke: {reason}") from None
        return response, bytes(data)

    def _answer(self, number: int, response: BaseHTTPResponse, data: bytes) -> Answer:
        status = response.status
        if status == 200:
            return _chat_answer(number, data)
        said = f"HTTP {status}: {_message(data)}"
        if status in _BUSY or status >= 500:
            raise _TryAgainError(said, retry_after(response.headers.get("Retry-After")) or 0.0)
        if status in _PICTURE:
            return Answer(number, reason=said)
        advice = _ADVICE.get(status, "check caption.url")
        raise LatentkitError(f"{self.url} answers {said}; {advice}; captions that were written are kept")


def _taken(answers: queue.SimpleQueue[Answer | _Unanswered | BaseException]) -> Answer | _Unanswered:
    answer = answers.get()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _chat_answer(number: int, data: bytes) -> Answer:
    try:
        choice = json.loads(data)["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or "", message.get("refusal")
        if not isinstance(text, str):
            raise TypeError("its content is no text")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _TryAgainError(f"not a chat completion: {_message(data)}") from None
    if refusal or ended == "content_filter":
        return Answer(number, reason=f"the model refused: {_one_line(refusal or 'content_filter')}")
    return judge(number, text, whole=ended != "length")


def _message(data: bytes) -> str:
    """What an error's body says, in OpenAI's form, in Ollama's or in none."""
    try:
        error: Any = json.loads(data)["error"]
        return _one_line(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError, RecursionError):
        return _one_line(data[:400].decode("utf-8", "replace")) or "nothing"


def _one_line(what: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(what)).split())[:200]
