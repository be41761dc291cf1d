"""A sample as a trainer sees it: a dict of tensors, made only when the contracts allow what is asked."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from latentkit.encoders.contract import Contract, ContractError, Vector
from latentkit.errors import UsageError
from latentkit.stores.records import image_id
from latentkit.stores.samples import declared_fields

_T = TypeVar("_T")

Asked = Mapping[str, Mapping[str, Any]]
"""Encoder -> what its contract must say, as `Contract.require` takes it."""

Scale = float | np.ndarray
"""One number, or float32 [C, 1, 1]."""


class Tensors:
    """Makes samples: ``image_id``, ``caption`` (empty where there is none), ``aspect_bucket``, ``width`` and
    ``height`` (of the picture, in pixels) and ``label`` where the record has them, and a tensor a field.

    A field is stored as its contract says; a mask is bool. With ``scaled``, latents are float32 and
    (z - shift) * scale as in `normalisation`, applied here unless the contract says that they were stored so.

    Args:
        contracts: encoder -> contract, of those that are read.
        scaled: give latents as diffusion models train on them.
        require: what contracts must say.
        allow_random: take numbers of random weights, which mean nothing.

    Raises:
        ContractError: names the encoder and the field that is not as asked.
    """

    def __init__(
        self, contracts: Mapping[str, Contract], scaled: bool, require: Asked | None, allow_random: bool
    ) -> None:
        for encoder, asked in (require or {}).items():
            if encoder not in contracts:
                raise ContractError(f"require: there is no {encoder}, there are {', '.join(contracts)}")
            contracts[encoder].require(**asked)
        check_pretrained(contracts, allow_random)
        self._scales: dict[str, tuple[Scale, Scale]] = {}
        for name, contract in contracts.items() if scaled else ():
            if contract.stored == "moments":
                raise ContractError(
                    f"{name}: the contract says stored = 'moments', only latents can be scaled: "
                    "give scaled=False"
                )
            if contract.scaling_factor is not None or contract.stored.startswith("posterior_"):
                self._scales |= dict.fromkeys(declared_fields({name: contract}), scale_of(contract))
        if scaled and not self._scales:
            raise ContractError(f"scaled=True: none of {', '.join(contracts)} stores latents")

    def sample(
        self, record: Mapping[str, Any], bucket: str, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """One picture's; the tensors share the arrays' memory where nothing was converted."""
        sample: dict[str, Any] = {"image_id": image_id(record), "caption": record.get("caption") or ""}
        sample |= {"aspect_bucket": bucket} | {name: record.get(name) or 0 for name in ("width", "height")}
        if "label" in record:
            sample["label"] = record["label"]
        for name, array in arrays.items():
            if name in self._scales:
                shift, scale = self._scales[name]
                array = (array.astype(np.float32) - shift) * scale
            tensor = torch.from_numpy(array)
            sample[name] = tensor.bool() if name.endswith("_mask") else tensor
        return sample


def chosen(there: Mapping[str, _T], names: Iterable[str] | None, place: object) -> dict[str, _T]:
    """Those that are asked for by name; None: all. Raises UsageError for a name that is not there."""
    names = list(there if names is None else names)
    if unknown := [name for name in names if name not in there]:
        raise UsageError(f"{place} has no {unknown[0]}, there are {', '.join(there)}")
    return {name: there[name] for name in names}


def check_pretrained(contracts: Mapping[str, Contract], allow_random: bool) -> None:
    """Raise ContractError where the weights were random, unless that is allowed."""
    random = [name for name, contract in contracts.items() if not contract.pretrained]
    if random and not allow_random:
        raise ContractError(
            f"{', '.join(random)}: the contract says pretrained = False, the weights were random and the "
            "numbers mean nothing: give allow_random=True to read them all the same"
        )


def scale_of(contract: Contract) -> tuple[Scale, Scale]:
    """(shift, scale) that are still to be applied to latents. Raises ContractError when it has none."""
    shift, scale = contract.normalisation
    return (0.0, 1.0) if contract.scaled else (_by_channel(shift), _by_channel(scale))


def _by_channel(value: Vector) -> Scale:
    return np.array(value, np.float32)[:, None, None] if isinstance(value, tuple) else value
