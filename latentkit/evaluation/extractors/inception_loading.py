"""The Inception network with the published weights, or with random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentkit.errors import LatentkitError
from latentkit.evaluation.extractors.inception_network import InceptionNetwork


def from_file(file: Path) -> InceptionNetwork:
    """The network with the weights of a file: in eval mode, folded.

    Raises:
        LatentkitError: it holds no weights, or another network's.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    # Pickle, zip and torch raise what they meet; the user is to see one line in any case.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise LatentkitError(f"{file}: cannot be read as PyTorch weights: {reason}") from None
    network = _skeleton()
    if differing := _differing(network.state_dict(), state):
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise LatentkitError(f"{file}: not the Inception of 2015-12-05: {differing[0]}{more}")
    return _finished(network, state)


def from_seed(seed: int) -> InceptionNetwork:
    """The network with random weights, of about constant variance from layer to layer (He et al., 2015)."""
    network = _skeleton()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        if value.dim() > 1:
            deviation = (2 / value[0].numel()) ** 0.5
            state[name] = torch.randn(value.shape, generator=generator) * deviation
        else:
            one = name.endswith((".bn.weight", ".running_var"))
            state[name] = torch.full(value.shape, int(one), dtype=value.dtype)
    return _finished(network, state)


def _skeleton() -> InceptionNetwork:
    with torch.device("meta"):
        return InceptionNetwork().eval()


def _finished(network: InceptionNetwork, state: Mapping[str, Tensor]) -> InceptionNetwork:
    network.load_state_dict(state, assign=True)
    network.float().requires_grad_(False).fold()
    return network


def _differing(needed: Mapping[str, Tensor], state: object) -> list[str]:
    """What is wrong with a state dict, a name each."""
    if not isinstance(state, Mapping):
        return [f"a {type(state).__name__} in place of a state dict"]
    wrong = [f"{name} is missing" for name in needed if name not in state]
    wrong += [f"{name} does not belong to it" for name in state if name not in needed]
    for name, value in needed.items():
        shape = getattr(state.get(name), "shape", None)
        if name in state and shape != value.shape:
            wrong.append(f"{name} has another shape")
    return wrong
