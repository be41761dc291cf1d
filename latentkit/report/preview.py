"""preview.png: what the encoders saw of a few pictures, and what the latents look like."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from latentkit.encoders.encoder import Encoder
from latentkit.errors import LatentkitError
from latentkit.pixels import DecodeError, Pillow
from latentkit.report.sheet import Row, draw_sheet
from latentkit.sources.source import Source, SourceError

PICTURES = 12


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
    rows: list[Row] = []
    for encoder in viewers:
        views = [_view(encoder, image) for image, _ in columns]
        rows.append(Row(encoder.name, "sees", views))
        latents = [arrays[encoder.name].get("latents") for _, arrays in columns]
        if all(latent is not None and latent.ndim == 3 and len(latent) >= 3 for latent in latents):
            colours = principal_colours([latent for latent in latents if latent is not None])
            rows.append(Row(encoder.name, "latents, 3 main components", colours))
    return draw_sheet(rows, note)


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
                image = Pillow(source.orient, source.strict)(data).image
            except (LatentkitError, SourceError, DecodeError):
                continue
            columns.append((image, arrays))
            break
    return columns


def _view(encoder: Encoder, image: Image.Image) -> Image.Image:
    assert encoder.geometry is not None
    return Image.fromarray(np.rint(np.clip(encoder.geometry(np.asarray(image)), 0, 255)).astype(np.uint8))
