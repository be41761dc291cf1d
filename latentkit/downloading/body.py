"""The body of a response on its way into a sink: how much of it has arrived, and whether that is all."""

import re
from dataclasses import dataclass
from typing import BinaryIO

from latentkit.runtime.readable import escaped, readable_count

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(eq=False)
class FetchError(Exception):
    """A request failed; the text is one line, `escaped`.

    Attributes:
        reason: why, without the number of attempts.
        final: whether another attempt would be in vain.
        wait: seconds that the server asks to wait before one; None when it does not say.
        status: what the server answered, where that is why.
        body: what it said with that, or the beginning of it.
        reached: whether there was a connection.
        attempts: how often it was tried in vain; 0 for a final failure.
    """

    reason: str
    final: bool = False
    wait: float | None = None
    status: int | None = None
    body: bytes = b""
    reached: bool = True
    attempts: int = 0

    def __post_init__(self) -> None:
        self.reason = escaped(" ".join(self.reason.split()))

    def __str__(self) -> str:
        tried = f", after {readable_count(self.attempts, 'attempt')}" if self.attempts else ""
        return self.reason + tried


class Body:
    """How much of a body has arrived, and of which one."""

    def __init__(self, sink: BinaryIO, limit: int) -> None:
        self._sink = sink
        self._limit = limit
        self._offset = 0
        self._total: int | None = None
        self._etag: str | None = None

    def headers(self) -> dict[str, str]:
        """What asks for the rest of it, when it can be asked for."""
        if not self._offset or self._etag is None:
            self._restart()
            return {}
        return {"Range": f"bytes={self._offset}-", "If-Range": self._etag}

    def begin(self, etag: str | None, length: int | None) -> None:
        """A whole body follows."""
        self._restart()
        self._etag = etag if etag and etag.startswith('"') else None
        self._total = length
        self._check_limit(length or 0)

    def resume(self, content_range: str) -> None:
        """The rest follows. Raises FetchError when it is not the rest of this body."""
        match = _CONTENT_RANGE.fullmatch(content_range)
        total = int(match[2]) if match and match[2] != "*" else self._total
        if not match or self._etag is None or int(match[1]) != self._offset or total != self._total:
            self.forget()
            raise FetchError(f"a part of another range than asked for ({content_range or 'unnamed'})")

    def forget(self) -> None:
        """The next attempt begins at the beginning."""
        self._etag = None

    def write(self, data: bytes) -> None:
        self._check_limit(self._offset + len(data))
        self._sink.write(data)
        self._offset += len(data)

    def check_end(self) -> None:
        if self._total is not None and self._offset != self._total:
            raise FetchError(f"{self._offset:,} of {self._total:,} bytes")

    def _restart(self) -> None:
        if self._offset:
            self._sink.seek(0)
            self._sink.truncate()
        self._offset, self._total, self._etag = 0, None, None

    def _check_limit(self, size: int) -> None:
        if size > self._limit:
            raise FetchError(f"over the limit of {self._limit:,} bytes", final=True)
