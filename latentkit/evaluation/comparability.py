"""Whether a number may stand beside published ones, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Size = tuple[int, int]
"""Height and width of pictures."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What decides whether results are comparable.

    Attributes:
        pictures: generated ones, or reconstructions.
        expected: how many the published numbers are of.
        reference_pictures: those that the reference is of; None where there is no reference, or nobody
            recorded it.
        limited: only the first pictures were taken.
        random: what had random weights: ``the decoder``, ``inception`` ...
        extractors: name -> precision of its forward pass.
        decoder: precision of its forward pass; None for pictures that nothing decoded.
        by_hand: options of the protocol that were given other values: ``protocol.pictures`` ...
        sizes: ``generated`` and ``reference`` -> the size of its pictures, None where they have several; left
            out what is not known.
    """

    pictures: int
    expected: int
    limited: bool
    random: tuple[str, ...]
    extractors: Mapping[str, str]
    reference_pictures: int | None = None
    decoder: str | None = None
    by_hand: tuple[str, ...] = ()
    sizes: Mapping[str, Size | None] = field(default_factory=dict)


def reasons_against(circumstances: Circumstances) -> list[str]:
    """Why the numbers are not comparable; empty when they are."""
    reasons = []
    if circumstances.random:
        reasons.append(f"random weights ({', '.join(circumstances.random)})")
    if circumstances.pictures != circumstances.expected:
        reasons.append(f"{circumstances.pictures:,} pictures, {circumstances.expected:,} are usual")
    behind = circumstances.reference_pictures
    if behind is not None and behind < circumstances.expected and behind != circumstances.pictures:
        reasons.append(f"the reference is of {behind:,} pictures, {circumstances.expected:,} are usual")
    if circumstances.limited:
        reasons.append("limit: only the first pictures were taken")
    reasons += [f"{option} was set by hand" for option in circumstances.by_hand]
    for name, precision in circumstances.extractors.items():
        if precision != "32-true":
            reasons.append(f"{name} ran in {precision}")
    if circumstances.decoder == "bf16-mixed":
        reasons.append("the decoder ran in bf16-mixed, which moves FID by more than its last digit")
    return reasons + _about_sizes(circumstances.sizes)


def described(size: Size) -> str:
    """Width x height, as people say it."""
    return f"{size[1]}x{size[0]}"


def _about_sizes(sizes: Mapping[str, Size | None]) -> list[str]:
    several = [f"the {side} pictures are of several sizes" for side, size in sizes.items() if size is None]
    told = {side: described(size) for side, size in sizes.items() if size is not None}
    if len(set(told.values())) > 1:
        several.append(f"pictures of {told['generated']} stand against a reference of {told['reference']}")
    return several
