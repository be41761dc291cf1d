"""What went wrong between us and a server, in words, without the classes that urllib3 wraps it in."""

from __future__ import annotations

import urllib3
from urllib3.exceptions import ConnectTimeoutError, IncompleteRead, NewConnectionError, ProtocolError


def failed_to_connect(error: Exception) -> bool:
    """Whether there never was a connection."""
    return isinstance(error, ConnectTimeoutError)  # NewConnectionError is one


def network_reason(error: Exception, url: str) -> str:
    """Why a request had no whole response, in one line.

    Args:
        error: raised by urllib3, http.client or a socket.
        url: what was asked; one that urllib3 took.
    """
    if failed_to_connect(error):
        asked = urllib3.util.parse_url(url)
        port = asked.port or (443 if asked.scheme == "https" else 80)
        return f"cannot reach {asked.host}:{port}: {_cause(error)}"
    inner = error.args[-1] if isinstance(error, ProtocolError) and error.args else error
    if isinstance(inner, IncompleteRead):
        return f"{inner.partial:,} of {inner.partial + inner.expected:,} bytes"
    return str(inner) or type(inner).__name__


def _cause(error: Exception) -> str:
    """What the system said, from ``connection refused`` to ``name or service not known``."""
    if not isinstance(error, NewConnectionError):
        return "no answer"
    cause = error.__cause__
    return ((isinstance(cause, OSError) and cause.strerror) or "no connection").lower()
