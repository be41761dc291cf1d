"""Captions from any server with OpenAI's chat interface: Ollama, vLLM, llama.cpp, a hosted one.

``POST <url>/chat/completions`` with the picture as a ``data:`` URL, as described in
https://platform.openai.com/docs/api-reference/chat/create
"""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from latentkit.captioning.captioner import Answer, Captioner, Describe, judge
from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Client, is_http
from latentkit.downloading.deadline import Stop
from latentkit.errors import LatentkitError, UsageError
from latentkit.runtime.threads import as_they_end

JPEG_QUALITY = 90
MAX_BYTES = 2**20
IN_A_ROW = 3
"""Pictures that a server fails to answer, one after the other: then it is not the pictures."""

_KEPT = "captions that were written are kept"
_PICTURE = frozenset({400, 413, 415, 422})
_ADVICE = {
    401: "set caption.api_key_env to the environment variable that holds the key",
    403: "the key may not use this model",
    404: "check caption.url and caption.model",
}


@dataclass(frozen=True, kw_only=True)
class OpenAICaptioner(Captioner):
    """A model behind HTTP, asked about several pictures at once.

    Requests are repeated as `Client.post` does. A picture that the server rejects is quarantined, and so is a
    single picture at which it fails. A server that fails at several pictures in a row, cannot be reached or
    denies access ends the run.

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
        if not is_http(self.url):
            raise UsageError(f"caption.url={self.url}: give http://HOST:PORT/v1 or https://HOST/v1")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise UsageError(f"caption.api_key_env={self.api_key_env}: this environment variable is not set")
        for option, least in (("longest_side", 16), ("concurrency", 1), ("retries", 0), ("deadline", 1)):
            self.require_at_least(option, least)

    @contextmanager
    def open(self) -> Iterator[Describe]:
        """See `Captioner.open`."""
        stop = Stop(grace=0)
        client = Client(connections=self.concurrency, retries=self.retries, deadline=self.deadline, stop=stop)
        try:
            yield lambda pictures: self._answers(client, stop, pictures)
        finally:
            stop.set()

    def _answers(
        self, client: Client, stop: Stop, pictures: Iterable[tuple[int, Image.Image]]
    ) -> Iterator[Answer]:
        """Ask about `concurrency` images at a time.

        A failure is the image's fault when others before or after it are answered, else the server's.

        Raises:
            LatentkitError: `IN_A_ROW` images had no answer, one after the other.
        """
        held: list[Answer] = []
        ask = partial(self._ask, client)
        for _, asked in as_they_end(ask, pictures, self.concurrency, self.concurrency, stop.set):
            held.append(answer := asked.result())
            if not answer.unanswered:
                yield from held
                held.clear()
            elif len(held) == IN_A_ROW:
                last = f"the last: {answer.reason}; see to the server and start again; {_KEPT}"
                raise LatentkitError(f"{self.url} fails, {IN_A_ROW} pictures in a row; {last}")
        yield from held

    def _ask(self, client: Client, picture: tuple[int, Image.Image]) -> Answer:
        """Ask about one image.

        Raises:
            LatentkitError: nobody can be reached, or the server does not serve us.
        """
        number, image = picture
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env]}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        try:
            return client.post(url, self._request(image), headers, MAX_BYTES, partial(_chat_answer, number))
        except FetchError as error:
            status = error.status
            said = _one_line(error.reason) if status is None else f"HTTP {status}: {_message(error.body)}"
            if status in _PICTURE:
                return Answer(number, reason=said)
            if not error.reached:
                raise LatentkitError(f"{said}; start the server, or give caption.url=URL; {_KEPT}") from None
            if status is not None and error.final:
                advice = _ADVICE.get(status, "check caption.url")
                raise LatentkitError(f"{self.url} answers {said}; {advice}; {_KEPT}") from None
            return Answer(number, reason=said, unanswered=True)

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
        messages = [{"role": "user", "content": content}]
        options = {"max_tokens": self.max_new_tokens, "temperature": 0, "stream": False}
        return json.dumps({"model": self.model, "messages": messages, **options}).encode("ascii")


def _chat_answer(number: int, data: bytes) -> Answer:
    try:
        choice = json.loads(data)["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or "", message.get("refusal")
        if not isinstance(text, str):
            raise TypeError("its content is no text")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise FetchError(f"not a chat completion: {_message(data)}") from None
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
