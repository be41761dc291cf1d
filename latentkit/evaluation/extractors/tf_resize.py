"""TensorFlow 1's bilinear resize, which every published FID has between its pictures and the network."""

import torch
from torch import Tensor


def tf_resize(pixels: Tensor, size: int) -> Tensor:
    """``tf.image.resize_bilinear(pixels, (size, size), align_corners=False)`` of TensorFlow 1.

    Output pixel i reads the input at i * (input size / size), counted from the corner and not from the
    pixel's centre, between its two neighbours, without antialiasing: first along rows, then along columns,
    all in float32 as ``a + (b - a) * weight``.

    Args:
        pixels: [B, H, W, C], of any numeric dtype.
        size: of both sides.

    Returns:
        float32 [B, size, size, C]; the input's values where it has that size already.
    """
    return _resize_axis(_resize_axis(pixels, 2, size), 1, size).float()


def _resize_axis(pixels: Tensor, axis: int, size: int) -> Tensor:
    length = pixels.shape[axis]
    if length == size:
        return pixels
    # The scale and the places are rounded to float32 one after the other, as TensorFlow has them.
    scale = torch.tensor(length, dtype=torch.float32) / size
    places = torch.arange(size, dtype=torch.float32) * scale
    lower = places.long()
    weight = (places - lower).view(-1, *[1] * (pixels.dim() - axis - 1)).to(pixels.device)
    a = pixels.index_select(axis, lower.to(pixels.device)).float()
    b = pixels.index_select(axis, (lower + 1).clamp_max(length - 1).to(pixels.device)).float()
    return b.sub_(a).mul_(weight).add_(a)
