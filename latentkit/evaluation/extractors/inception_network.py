"""The Inception of 2015-12-05 (Szegedy et al., 2015, https://arxiv.org/abs/1512.00567), which defines FID.

TensorFlow's graph, in which Heusel et al. (2017) and all papers since measured. It is not torchvision's
``inception_v3``: it has 1008 classes and no auxiliary classifier, its average pools leave the padding out of
the mean, and its last block has a maximum pool. The weights' names are the published PyTorch conversion's.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from latentkit.errors import LatentkitError, one_line

SIZE = 299
"""Side of the network's input in pixels."""

CLASSES = 1008

SPATIAL_CHANNELS = 7
"""Channels of ``Mixed_6d`` that sFID reads (Nash et al., 2021, https://arxiv.org/abs/2103.03841)."""

_Convolution = tuple[int, ...]
"""Channels, kernel height and width, padded to keep the size; with a stride as well: not padded."""
_Branch = Sequence[_Convolution | list[_Convolution]]
"""Convolutions one after the other; those of a list, which is last, stand side by side."""
_Pool = Callable[[Tensor], Tensor]

_average: _Pool = partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum: _Pool = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
_halving: _Pool = partial(functional.max_pool2d, kernel_size=3, stride=2)


def _a(pooled: int) -> dict[str, _Branch]:
    return {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 5)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
        "branch_pool": [(pooled, 1, 1)],
    }


def _c(inner: int) -> dict[str, _Branch]:
    row, column = (inner, 1, 7), (inner, 7, 1)
    return {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [(inner, 1, 1), row, (192, 7, 1)],
        "branch7x7dbl": [(inner, 1, 1), column, row, column, (192, 1, 7)],
        "branch_pool": [(192, 1, 1)],
    }


_B: dict[str, _Branch] = {
    "branch3x3": [(384, 3, 3, 2)],
    "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3, 2)],
    "branch_pool": [],
}
_D: dict[str, _Branch] = {
    "branch3x3": [(192, 1, 1), (320, 3, 3, 2)],
    "branch7x7x3": [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)],
    "branch_pool": [],
}
_E: dict[str, _Branch] = {
    "branch1x1": [(320, 1, 1)],
    "branch3x3": [(384, 1, 1), [(384, 1, 3), (384, 3, 1)]],
    "branch3x3dbl": [(448, 1, 1), (384, 3, 3), [(384, 1, 3), (384, 3, 1)]],
    "branch_pool": [(192, 1, 1)],
}
_STEM: dict[str, _Convolution] = {
    "Conv2d_1a_3x3": (32, 3, 3, 2),
    "Conv2d_2a_3x3": (32, 3, 3, 1),
    "Conv2d_2b_3x3": (64, 3, 3),
    "MaxPool_1": (),
    "Conv2d_3b_1x1": (80, 1, 1),
    "Conv2d_4a_3x3": (192, 3, 3, 1),
    "MaxPool_2": (),
}
_BLOCKS: dict[str, tuple[dict[str, _Branch], _Pool]] = {
    "Mixed_5b": (_a(32), _average),
    "Mixed_5c": (_a(64), _average),
    "Mixed_5d": (_a(64), _average),
    "Mixed_6a": (_B, _halving),
    "Mixed_6b": (_c(128), _average),
    "Mixed_6c": (_c(160), _average),
    "Mixed_6d": (_c(160), _average),
    "Mixed_6e": (_c(192), _average),
    "Mixed_7a": (_D, _halving),
    "Mixed_7b": (_E, _average),
    "Mixed_7c": (_E, _maximum),
}
"""Name -> branches, and the pool at the beginning of ``branch_pool``."""


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, convolution: _Convolution) -> None:
        super().__init__()
        self.channels, height, width, *strides = convolution
        stride, padding = (strides[0], 0) if strides else (1, (height // 2, width // 2))
        self.conv = nn.Conv2d(inputs, self.channels, (height, width), stride, padding, bias=False)
        self.bn: Any = nn.BatchNorm2d(self.channels, eps=0.001)

    def fold(self) -> None:
        self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity().eval()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu_(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches over one input, joined along the channels in their order."""

    def __init__(self, inputs: int, branches: Mapping[str, _Branch], pool: _Pool) -> None:
        super().__init__()
        self.channels = 0
        self._branches: list[list[list[Any]]] = []
        for name, steps in branches.items():
            levels: list[list[Any]] = [[pool]] if name == "branch_pool" else []
            channels = inputs
            for number, step in enumerate(steps, 1):
                beside = step if isinstance(step, list) else [step]
                levels.append([_Unit(channels, convolution) for convolution in beside])
                for letter, unit in zip("ab" if len(beside) > 1 else [""], levels[-1], strict=True):
                    self.add_module(f"{name}_{number}{letter}" if len(steps) > 1 else name, unit)
                channels = beside[0][0]
            self._branches.append(levels)
            self.channels += channels * len(levels[-1])

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for *chain, ends in self._branches:
            y = x
            for (step,) in chain:
                y = step(y)
            outputs += [step(y) for step in ends]
        return torch.cat(outputs, dim=1)


class InceptionNetwork(nn.Module):
    """Pictures to what the metrics read, in one forward pass.

    Batch normalisation is in its own layers, as in the published weights, until `fold`.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for name, convolution in _STEM.items():
            self.add_module(name, _Unit(channels, convolution) if convolution else nn.MaxPool2d(3, 2))
            channels = convolution[0] if convolution else channels
        for name, (branches, pool) in _BLOCKS.items():
            block = _Block(channels, branches, pool)
            self.add_module(name, block)
            channels = block.channels
        self.fc = nn.Linear(channels, CLASSES)

    def fold(self) -> Self:
        """Make each batch normalisation part of the convolution before it: the same map but for rounding.

        Of a network in eval mode; the names of its weights are other ones then.
        """
        for module in self.modules():
            if isinstance(module, _Unit):
                module.fold()
        return self

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Resize to 299 as TensorFlow 1 does, (x - 128) / 128, and the network.

        Args:
            pixels: uint8 [B, H, W, 3].

        Returns:
            float32: ``pool3`` [B, 2048]; ``logits`` [B, 1008], without the bias, as all published Inception
            Scores have them; ``spatial`` [B, 2023], of ``Mixed_6d`` in the order height, width, channel.
        """
        x = (tf_resize(pixels, SIZE) - 128) / 128
        x = x.permute(0, 3, 1, 2).contiguous()  # float32 runs faster so on a GPU than channels-last
        for name, layer in self.named_children():
            if layer is self.fc:
                break
            x = layer(x)
            if name == "Mixed_6d":
                # Its first branch, branch1x1, has 192 channels: these are the first of that one.
                spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pool3 = x.mean((2, 3))
        logits = functional.linear(pool3, self.fc.weight)
        return {"pool3": pool3.float(), "logits": logits.float(), "spatial": spatial.float()}


def from_file(file: Path) -> InceptionNetwork:
    """The network with the weights of a file: in eval mode, folded.

    Raises:
        LatentkitError: it holds no weights, or another network's.
    """
    try:
        return _loaded(torch.load(file, map_location="cpu", weights_only=True))
    # Pickle, zip and torch raise what they meet; the user is to see one line in any case.
    except Exception as error:
        reason = one_line(error)[:200]
        raise LatentkitError(
            f"{file}: cannot be read as PyTorch weights of the Inception of 2015-12-05: {reason}"
        ) from None


def from_seed(seed: int) -> InceptionNetwork:
    """The network with random weights, of about constant variance from layer to layer (He et al., 2015)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in _skeleton().state_dict().items():
        if value.dim() > 1:
            deviation = (2 / value[0].numel()) ** 0.5
            state[name] = torch.randn(value.shape, generator=generator) * deviation
        else:
            one = name.endswith((".bn.weight", ".running_var"))
            state[name] = torch.full(value.shape, int(one), dtype=value.dtype)
    return _loaded(state)


def _skeleton() -> InceptionNetwork:
    with torch.device("meta"):
        return InceptionNetwork().eval()


def _loaded(state: Mapping[str, Tensor]) -> InceptionNetwork:
    network = _skeleton()
    network.load_state_dict(state, assign=True)
    return network.float().requires_grad_(False).fold()


def tf_resize(pixels: Tensor, size: int) -> Tensor:
    """``tf.image.resize_bilinear(pixels, (size, size), align_corners=False)`` of TensorFlow 1.

    Every published FID has this resize between its pictures and the network.
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
