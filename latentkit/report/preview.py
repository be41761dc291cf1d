"""preview.png: what the encoders saw of a few pictures, and what the latents look like."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentkit.encoders.encoder import Encoder
from latentkit.errors import LatentkitError
from latentkit.pixels import DecodeError, decode
from latentkit.sources.item import Source, SourceError

PICTURES = 12
CELL = 128
MARGIN = 6
LABEL_WIDTH = 176
BACKGROUND, INK, FAINT = (250, 250, 248), (30, 30, 34), (120, 120, 126)


def contact_sheet(
    source: Source,
    encoders: Sequence[Encoder],
    read: Callable[[str, str], dict[str, np.ndarray]],
    note: str,
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
    viewers = [encoder for encoder in encoders if encoder.geometry is not None]
    columns = _columns(source, viewers, read)
    if not columns:
        return None
    rows: list[tuple[str, str, list[Image.Image]]] = []
    for encoder in viewers:
        views = [_view(encoder, image) for image, _ in columns]
        rows.append((encoder.name, "sees", views))
        latents = [arrays[encoder.name].get("latents") for _, arrays in columns]
        if all(latent is not None and latent.ndim == 3 and len(latent) >= 3 for latent in latents):
            colours = principal_colours([latent for latent in latents if latent is not None])
            rows.append((encoder.name, "latents, 3 main components", colours))
    return _draw(rows, note)


def principal_colours(latents: Sequence[np.ndarray]) -> list[Image.Image]:
    """First three principal components of all latents' channel vectors, as red, green and blue.

    Args:
        latents: arrays [C, h, w], C >= 3; h and w may differ between them.

    Returns:
        A picture [h, w] each; the 2nd to 98th percentile of each component spans 0 to 255.
    """
    pixels = np.concatenate([np.float64(latent).reshape(len(latent), -1) for latent in latents], axis=1)
    mean = pixels.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.cov(pixels))
    axes = vectors[:, :-4:-1].T
    axes *= np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    low, high = np.percentile(axes @ (pixels - mean), [2, 98], axis=1)
    span = np.maximum(high - low, 1e-12)
    pictures = []
    for latent in latents:
        channels, height, width = latent.shape
        projected = axes @ (np.float64(latent).reshape(channels, -1) - mean)
        colour = np.clip((projected - low[:, None]) / span[:, None], 0, 1) * 255
        pictures.append(Image.fromarray(np.rint(colour.T.reshape(height, width, 3)).astype(np.uint8)))
    return pictures


def _columns(
    source: Source,
    viewers: Sequence[Encoder],
    read: Callable[[str, str], dict[str, np.ndarray]],
) -> list[tuple[Image.Image, dict[str, dict[str, np.ndarray]]]]:
    """Evenly spaced pictures that all viewers have encoded; near neighbours stand in for missing ones."""
    columns: list[tuple[Image.Image, dict[str, dict[str, np.ndarray]]]] = []
    if not viewers:
        return columns
    for start in np.unique(np.linspace(0, len(source), PICTURES, endpoint=False).astype(int)).tolist():
        for index in range(start, min(start + 5, len(source))):
            key = source[index].key
            try:
                arrays = {encoder.name: read(encoder.name, key) for encoder in viewers}
                data, _ = source.read(index)
                image = decode(data, orient=source.orient, strict=source.strict).image
            except (LatentkitError, SourceError, DecodeError):
                continue
            columns.append((image, arrays))
            break
    return columns


def _view(encoder: Encoder, image: Image.Image) -> Image.Image:
    assert encoder.geometry is not None
    return Image.fromarray(np.rint(np.clip(encoder.geometry(image), 0, 255)).astype(np.uint8))


def _draw(rows: Sequence[tuple[str, str, list[Image.Image]]], note: str) -> bytes:
    columns = len(rows[0][2])
    step = CELL + MARGIN
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * step + MARGIN, len(rows) * step + 34), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    name_font, font = ImageFont.load_default(15), ImageFont.load_default(11)
    for row, (name, what, pictures) in enumerate(rows):
        top = MARGIN + row * step
        draw.text((10, top + CELL // 2 - 18), name, INK, font=name_font)
        draw.text((10, top + CELL // 2 + 2), what, FAINT, font=font)
        for column, picture in enumerate(pictures):
            scale = CELL / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            small = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            left = LABEL_WIDTH + column * step
            sheet.paste(small, (left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2))
    draw.text((10, sheet.height - 22), note, FAINT, font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
