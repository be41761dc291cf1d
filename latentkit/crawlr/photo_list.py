"""The crawler's list: ``<base_url>?page=N`` from 1 until a page is an empty array; and the names in it."""

import io
import itertools
import json
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from latentkit.downloading.body import FetchError
from latentkit.downloading.client import Client
from latentkit.errors import LatentkitError
from latentkit.runtime.readable import escaped

MAX_PAGE_BYTES = 2**26

MAX_DEPTH = 100
"""Objects and arrays within one another in an entry."""

MAX_NAME_BYTES = 200
"""Of a name in UTF-8. File systems take 255; the link's suffix and what is derived need some."""

_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"}
)
_UNPRINTABLE = {
    "Cc": "a control character",
    "Cs": "half a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


class ListError(LatentkitError):
    """The list cannot be read to its end. What is not on it cannot be told, so nothing may be removed."""


class Listed(NamedTuple):
    """One entry of the list.

    Attributes:
        filename: as the list has it: any text.
        url: its ``exportable_url``; None when it has none.
        metadata: every other field, as JSON in ASCII.
    """

    filename: str
    url: str | None
    metadata: bytes


class BadEntry(NamedTuple):
    """An entry that tells of no photo.

    Attributes:
        where: its place on the list.
        reason: what is wrong with it.
    """

    where: str
    reason: str


Entry = Listed | BadEntry


def read_list(client: Client, base_url: str) -> Iterator[Entry]:
    """The entries, page by page. It ends after the last only when the list was read to its end.

    Raises:
        ListError: a page cannot be had, is not what a page is, or has no photo that none before it has, which
            one page of nothing but bad entries may; or the first is empty.
        Stopped: the run ends.
    """
    seen: set[str] = set()
    barren = False
    parts = urlsplit(base_url)
    for number in itertools.count(1):
        query = f"{parts.query}&page={number}".removeprefix("&")
        url = urlunsplit(parts._replace(query=query, fragment=""))
        body = io.BytesIO()
        try:
            client.fetch(url, body, MAX_PAGE_BYTES)
        except FetchError as error:
            raise ListError(f"the list cannot be read to its end: {url}: {error}") from None
        page = _parse(body.getvalue(), url)
        if not page:
            if number == 1:
                raise ListError(f"the list is empty: {url}: that is taken for a fault of the server")
            return
        names = {entry.filename for entry in page if isinstance(entry, Listed)}
        if names <= seen and (names or barren):
            what = "only photos that the pages before have" if names else "no photo, nor has the page before"
            raise ListError(f"the list has no end: {url} has {what}")
        barren = not names
        seen |= names
        yield from page


def _parse(body: bytes, url: str) -> list[Entry]:
    try:
        page = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ListError(f"the list cannot be read: {url} is not JSON: {error}") from None
    if not isinstance(page, list):
        raise ListError(f"the list cannot be read: {url} is {_kind(page)}, not an array")
    return [_entry(entry, f"entry {number} of {url}") for number, entry in enumerate(page, 1)]


def _entry(entry: Any, where: str) -> Entry:
    if not isinstance(entry, dict):
        return BadEntry(where, f"it is {_kind(entry)}, not an object")
    if _deeper(entry, MAX_DEPTH):
        return BadEntry(where, f"it is nested over {MAX_DEPTH} deep")
    filename, url = entry.pop("filename", None), entry.pop("exportable_url", None)
    if not isinstance(filename, str):
        return BadEntry(where, "it has no filename")
    if not isinstance(url, str | None):
        return BadEntry(where, f"its exportable_url is {_kind(url)}")
    try:
        return Listed(filename, url or None, json.dumps(entry, allow_nan=False).encode("ascii"))
    except ValueError:
        return BadEntry(where, "it has a number that is not finite")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _deeper(value: Any, depth: int) -> bool:
    """Whether more than so many objects and arrays are within one another."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper(item, depth - 1) for item in inner)


def refusal(name: str) -> str | None:
    """Why a name may not become a file's; None when it may.

    A name that may is a single component on every common system: it is no folder's name, hides nothing, has
    nothing that a terminal or a line-based file would act on, and is no device of Windows.
    """
    if not name:
        return "the name is empty"
    if name.startswith("."):
        return "the name begins with a dot"
    for character in name:
        if character in "/\\":
            return f"the name contains {character}"
        if what := _UNPRINTABLE.get(unicodedata.category(character)):
            return f"the name contains {what}"
    if (size := len(name.encode())) > MAX_NAME_BYTES:
        return f"the name is {size} bytes long, over the limit of {MAX_NAME_BYTES}"
    if name.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
        return "the name is a device on Windows"
    return None


def shown(name: str) -> str:
    """How a refused name is written down: its beginning, with escapes for what is unprintable."""
    return escaped(name[:MAX_NAME_BYTES]) + "..." * (len(name) > MAX_NAME_BYTES)
