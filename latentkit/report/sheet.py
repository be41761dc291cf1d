"""Pictures in rows, with a name beside each row: what a run leaves for the eye."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL = 128
MARGIN = 6
LABEL_WIDTH = 228
BACKGROUND, INK, FAINT = (250, 250, 248), (30, 30, 34), (120, 120, 126)


class Row(NamedTuple):
    """A row of a sheet: its name, what its pictures show, and the pictures."""

    name: str
    what: str
    pictures: Sequence[Image.Image]


def draw_sheet(rows: Sequence[Row], note: str, cell: int = CELL) -> bytes:
    """A PNG file of rows of equally many pictures.

    Args:
        note: the line at the bottom.
        cell: the longer side of a picture on the sheet, in pixels.
    """
    columns = max(len(row.pictures) for row in rows)
    step = cell + MARGIN
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * step + MARGIN, len(rows) * step + 34), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    name_font, font = ImageFont.load_default(17), ImageFont.load_default(14)
    for number, row in enumerate(rows):
        top = MARGIN + number * step
        draw.text((10, top + cell // 2 - 20), row.name, INK, font=name_font)
        draw.text((10, top + cell // 2 + 2), row.what, FAINT, font=font)
        for column, picture in enumerate(row.pictures):
            scale = cell / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            small = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            left = LABEL_WIDTH + column * step
            sheet.paste(small, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
    draw.text((10, sheet.height - 24), note, FAINT, font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
