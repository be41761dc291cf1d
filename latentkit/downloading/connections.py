"""What a server says when it cannot serve, and what the network says without one, in words and in seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

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


def retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` of either form (RFC 9110, 10.2.3); None for none or another."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max((date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _cause(error: Exception) -> str:
    """What the system said, from ``connection refused`` to ``name or service not known``."""
    if not isinstance(error, NewConnectionError):
        return "no answer"
    cause = error.__cause__
    return ((isinstance(cause, OSError) and cause.strerror) or "no connection").lower()
