"""Whether statistics that say what they were made from are of this run's networks and crop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from latentkit.encoders.contract import ContractError
from latentkit.pixels.geometry import Geometry

AsTheyAre = Literal["as they are"]
"""Pictures that nothing is done to, where that was asked for."""


def check_recorded(
    path: Path,
    recorded: Mapping[str, Any],
    geometry: Geometry | AsTheyAre | None,
    orient: bool | None,
    extractors: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise ContractError, which names what differs, where statistics are not of this run's networks or crop.

    What was not recorded, or not asked about, is not compared; pictures recorded as they are, ``geometry``
    null, are.

    Args:
        path: of the statistics.
        recorded: their identity, ``pictures`` and ``extractors``.
        geometry, orient, extractors: as in `open_reference`.
    """
    networks, pictures = recorded["extractors"], recorded["pictures"]
    pairs: list[tuple[str, Any, Any]] = [
        (f"extractors.{name}", networks[name], asked)
        for name, asked in extractors.items()
        if name in networks
    ]
    if geometry is not None and "geometry" in pictures:
        asked = geometry.describe() if isinstance(geometry, Geometry) else None
        there, here = (_in_words(described) for described in (pictures["geometry"], asked))
        if there != here:
            raise ContractError(
                f"{path}: its statistics are of pictures with {there}, this run has {here}: "
                "give the same crop, or the pictures in place of statistics"
            )
        pairs.append(("geometry", pictures["geometry"], asked))
    if orient is not None and "orientation" in pictures:
        pairs.append(("orientation", pictures["orientation"], "exif" if orient else "ignored"))
    for where, have, asked in pairs:
        were, are = dict(_leaves(have, where)), dict(_leaves(json.loads(json.dumps(asked)), where))
        for field in sorted(were.keys() | are.keys()):
            if were.get(field) != are.get(field):
                raise ContractError(
                    f"{path}: its statistics were made with {field} = {were.get(field)!r}, this run uses "
                    f"{are.get(field)!r}: give the same settings, or the pictures in place of statistics"
                )


def _in_words(geometry: Mapping[str, Any] | None) -> str:
    """A described geometry as the command line has it; what it has no words for as JSON."""
    match geometry:
        case None:
            return "crop=none"
        case {"resize": "shorter side", "crop": "adm", "size": size}:
            return f"crop=adm size={size}"
        case {"resize": "squash", "interpolation": "bicubic (Pillow)", "size": size}:
            return f"crop=resize size={size}"
    return json.dumps(geometry, sort_keys=True)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner, below in value.items():
            yield from _leaves(below, f"{name}.{inner}")
    else:
        yield name, value
