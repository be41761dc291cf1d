"""Names from the list: one safe path component each, or a reason."""

import unicodedata

from latentkit.runtime.readable import escaped

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
