"""Figures, and the texts of others, as people read them."""


def readable_bytes(count: int) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def readable_seconds(seconds: float) -> str:
    """A duration in the largest unit that leaves at least 2: 90 s, 25 min, 7 h, 3 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def readable_count(count: int, thing: str) -> str:
    """``1 picture``, ``1,234 pictures``."""
    return f"{count:,} {thing}" + "s" * (count != 1)


def escaped(text: str) -> str:
    """A text of others as a terminal and a ledger may have it: with escapes for what is unprintable."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
