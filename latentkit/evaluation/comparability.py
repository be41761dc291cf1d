"""Whether a number may stand beside published ones, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What decides whether results are comparable.

    Attributes:
        pictures: generated ones, or reconstructions.
        expected: how many the published numbers are of.
        limited: only the first pictures were taken.
        random: what had random weights: ``the decoder``, ``inception`` ...
        extractors: name -> precision of its forward pass.
        settings: metric -> what of its settings published numbers do not have.
    """

    pictures: int
    expected: int
    limited: bool
    random: tuple[str, ...]
    extractors: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)


def reasons_against(circumstances: Circumstances) -> list[str]:
    """Why the numbers are not comparable; empty when they are."""
    reasons = []
    if circumstances.random:
        reasons.append(f"random weights ({', '.join(circumstances.random)})")
    if circumstances.pictures < circumstances.expected:
        reasons.append(f"{circumstances.pictures:,} pictures, {circumstances.expected:,} are usual")
    if circumstances.limited:
        reasons.append("limit: only the first pictures were taken")
    for name, precision in circumstances.extractors.items():
        if precision != "32-true":
            reasons.append(f"{name} ran in {precision}")
    reasons += [f"metric={name} has {settings}" for name, settings in circumstances.settings.items()]
    return reasons
