"""reconstructions.png: the worst, the median and the best reconstructions beside their originals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from latentkit.report.sheet import Row, draw_sheet

CELL = 256


class Reconstruction(NamedTuple):
    """A picture and what became of it.

    Attributes:
        key: of the picture.
        psnr: in dB.
        original, decoded: uint8 [H, W, 3].
    """

    key: str
    psnr: float
    original: np.ndarray
    decoded: np.ndarray


def reconstruction_sheet(groups: Mapping[str, Sequence[Reconstruction]], note: str) -> bytes:
    """A PNG file: of each group (``worst``, ``median``, ``best``) the originals and below them the decoded.

    Args:
        groups: name -> its reconstructions; at least one.
        note: the line at the bottom.
    """
    rows: list[Row] = []
    for name, group in groups.items():
        values = sorted(round(found.psnr, 1) for found in group)
        span = f"PSNR {values[0]}" + (f" to {values[-1]}" if values[-1] > values[0] else "") + " dB"
        rows.append(Row(name, "original", [Image.fromarray(found.original) for found in group]))
        rows.append(Row(name, f"decoded, {span}", [Image.fromarray(found.decoded) for found in group]))
    return draw_sheet(rows, note, CELL)
