"""Contact sheets: preview.png of an encoding run, reconstructions.png of an evaluation."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentkit.encoders.encoder import Encoder
from latentkit.errors import LatentkitError
from latentkit.pixels import DecodeError, Pillow
from latentkit.sources.source import Source, SourceError

PICTURES = 12
PREVIEW_CELL, RECONSTRUCTION_CELL = 128, 256
MARGIN = 6
LABEL_WIDTH = 228
BACKGROUND, INK, FAINT = (250, 250, 248), (30, 30, 34), (120, 120, 126)

_Row = tuple[str, str, Sequence[Image.Image]]
"""Of a sheet: its name, what its pictures show, and the pictures."""


class Reconstruction(NamedTuple):
    """A picture and its reconstruction.

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
    rows: list[_Row] = []
    for name, group in groups.items():
        values = sorted(round(found.psnr, 1) for found in group)
        span = f"PSNR {values[0]}" + (f" to {values[-1]}" if values[-1] > values[0] else "") + " dB"
        rows.append((name, "original", [Image.fromarray(found.original) for found in group]))
        rows.append((name, f"decoded, {span}", [Image.fromarray(found.decoded) for found in group]))
    return _draw(rows, note, RECONSTRUCTION_CELL)


def preview_sheet(
    source: Source, encoders: Sequence[Encoder], read: Callable[[str, str], dict[str, np.ndarray]], note: str
) -> bytes | None:
    """Draw up to 12 pictures, evenly spaced over the collection, a row a view.

    Args:
        source: where the pictures are; they are decoded again here.
        encoders: the run's; those that read captions have no row.
        read: (encoder, key) -> its published arrays; raises LatentkitError when it has none for the key.
        note: the line at the bottom.

    Returns:
        A PNG file; None when no encoder here looks at pictures, or no picture is done.
    """
    views = {encoder.name: encoder.geometry for encoder in encoders if encoder.geometry is not None}
    columns = _columns(source, views.keys(), read) if views else []
    if not columns:
        return None
    rows: list[_Row] = []
    for name, geometry in views.items():
        rows.append((name, "sees", [_picture(geometry(np.asarray(image))) for image, _ in columns]))
        latents = [arrays[name].get("latents", np.empty(0)) for _, arrays in columns]
        if all(latent.ndim == 3 and len(latent) >= 3 for latent in latents):
            rows.append((name, "latents, 3 main components", principal_colours(latents)))
    return _draw(rows, note, PREVIEW_CELL)


def principal_colours(latents: Sequence[np.ndarray]) -> list[Image.Image]:
    """First three principal components of all latents' channel vectors, as red, green and blue.

    Args:
        latents: arrays [C, h, w], C >= 3; h and w may differ between them.

    Returns:
        A picture [h, w] each; the 2nd to 98th percentile of each component spans 0 to 255.
    """
    flat = [np.float64(latent).reshape(len(latent), -1) for latent in latents]
    pixels = np.concatenate(flat, axis=1)
    mean = pixels.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.cov(pixels))
    axes = vectors[:, :-4:-1].T
    axes *= np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    low, high = np.percentile(axes @ (pixels - mean), [2, 98], axis=1)[..., None]
    pictures = []
    for latent, channels in zip(latents, flat, strict=True):
        colour = (axes @ (channels - mean) - low) / np.maximum(high - low, 1e-12)
        pictures.append(_picture(255 * colour.T.reshape(*latent.shape[1:], 3)))
    return pictures


def _columns(
    source: Source, encoders: Collection[str], read: Callable[[str, str], dict[str, np.ndarray]]
) -> list[tuple[Image.Image, dict[str, dict[str, np.ndarray]]]]:
    """Evenly spaced pictures that all of these have encoded; near neighbours stand in for missing ones."""
    columns = []
    for start in np.unique(np.linspace(0, len(source), PICTURES, endpoint=False).astype(int)).tolist():
        for index in range(start, min(start + 5, len(source))):
            key = source[index].key
            try:
                arrays = {encoder: read(encoder, key) for encoder in encoders}
                data, _ = source.read(index)
                image = Pillow(source.orient, source.strict)(data).image
            except (LatentkitError, SourceError, DecodeError):
                continue
            columns.append((image, arrays))
            break
    return columns


def _picture(levels: np.ndarray) -> Image.Image:
    """Of [H, W, 3] in 0..255, clipped and rounded."""
    return Image.fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8))


def _draw(rows: Sequence[_Row], note: str, cell: int) -> bytes:
    """A PNG file of rows of equally many pictures, whose longer sides are `cell` pixels on the sheet."""
    columns = max(len(pictures) for _, _, pictures in rows)
    step = cell + MARGIN
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * step + MARGIN, len(rows) * step + 34), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    name_font, font = ImageFont.load_default(17), ImageFont.load_default(14)
    for number, (name, what, pictures) in enumerate(rows):
        top = MARGIN + number * step
        draw.text((10, top + cell // 2 - 20), name, INK, font=name_font)
        draw.text((10, top + cell // 2 + 2), what, FAINT, font=font)
        for column, picture in enumerate(pictures):
            scale = cell / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            small = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            left = LABEL_WIDTH + column * step
            sheet.paste(small, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
    draw.text((10, sheet.height - 24), note, FAINT, font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
