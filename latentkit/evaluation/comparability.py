"""Whether a number may stand beside published ones, and why not."""

from collections.abc import Mapping, Sequence

Size = tuple[int, int]
"""Height and width of pictures."""


def reasons_against(
    *,
    pictures: int,
    expected: int,
    limited: bool,
    random: Sequence[str],
    extractors: Mapping[str, str],
    reference_pictures: int | None,
    decoder: str | None,
    by_hand: Sequence[str],
    sizes: Mapping[str, Size | None],
) -> list[str]:
    """Why the numbers are not comparable; empty when they are.

    Args:
        pictures: generated ones, or reconstructions.
        expected: how many the published numbers are of.
        limited: only the first pictures were taken.
        random: what had random weights: ``the decoder``, ``inception`` ...
        extractors: name -> precision of its forward pass.
        reference_pictures: those that the reference is of; None where there is no reference, or it is not
            recorded.
        decoder: precision of its forward pass; None for pictures that nothing decoded.
        by_hand: options of the protocol that were given other values: ``protocol.pictures`` ...
        sizes: ``generated`` and ``reference`` -> the size of its pictures, None where they have several; left
            out what is not known.
    """
    reasons = []
    if random:
        reasons.append(f"random weights ({', '.join(random)})")
    if pictures != expected:
        reasons.append(f"{pictures:,} pictures, {expected:,} are usual")
    if reference_pictures is not None and reference_pictures < expected and reference_pictures != pictures:
        reasons.append(f"the reference is of {reference_pictures:,} pictures, {expected:,} are usual")
    if limited:
        reasons.append("limit: only the first pictures were taken")
    reasons += [f"{option} was set by hand" for option in by_hand]
    for name, precision in extractors.items():
        if precision != "32-true":
            reasons.append(f"{name} ran in {precision}")
    if decoder == "bf16-mixed":
        reasons.append("the decoder ran in bf16-mixed, which moves FID by more than its last digit")
    reasons += [f"the {side} pictures are of several sizes" for side, size in sizes.items() if size is None]
    told = {side: f"{size[1]}x{size[0]}" for side, size in sizes.items() if size is not None}
    if len(set(told.values())) > 1:
        reasons.append(f"pictures of {told['generated']} stand against a reference of {told['reference']}")
    return reasons
