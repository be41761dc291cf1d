"""Where pruned things lie until the next prune, and how they come back."""

from __future__ import annotations


class Trash:
    """To come."""
