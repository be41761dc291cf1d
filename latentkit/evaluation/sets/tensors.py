"""Latents, or pictures, in one tensor of a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract, ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.compatibility import LATENTS, Decodable
from latentkit.evaluation.picture_set import LatentSpace, PictureSet, ordered
from latentkit.evaluation.sets.tensor_files import FileTensor, Tensors, file_identity, read_tensor_file
from latentkit.stores.arrays import match
from latentkit.stores.shard_manifest import MANIFEST, ShardManifest

PREFERRED = (LATENTS, "samples", "arr_0")
"""What the tensor is called that counts, where a file has several."""


class TensorRows(PictureSet):
    """A tensor file's latents, floats [N, C, h, w], or pictures, uint8 [N, H, W, 3] or [N, 3, H, W].

    Its keys are those in a safetensors file's metadata (a JSON list under ``keys``), else the numbers of the
    rows, padded with zeros. A latent shard is decoded by its contract where its manifest lies beside it.

    Args:
        path: ``.safetensors``, ``.npz``, ``.npy``, ``.pt`` or ``.pth``.
        decodable: which latents are asked for; None where pictures are needed.

    Raises:
        UsageError: no tensor, or no one of several, can be meant; or latents may be scaled or not.
        ContractError: a shard's contract says something else than what is asked for.
        LatentkitError: the file is damaged, or its tensor has another shape or type.
    """

    def __init__(self, path: Path, decodable: Decodable | None) -> None:
        self.name = path.name
        self._path = path
        tensors, metadata = read_tensor_file(path)
        self._tensor_name, self._tensor = _chosen(tensors, path)
        where = f"{path}, {self._tensor_name}" if self._tensor_name else str(path)
        self._channels_last = self._tensor.shape[-1:] == (3,)
        if not _are_pictures(self._tensor, decodable, where):
            if decodable is None:
                raise UsageError(f"{where} holds latents: pictures are needed here")
            self.contract = _contract_beside(path, metadata)
            self.latents = _space(self._tensor, self.contract, decodable, where)
        self.keys, self._rows = ordered(_keys(metadata, self._tensor.shape[0], path), str(path))

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        for row in self._tensor.rows(self._rows[positions]):
            if self.latents is not None:
                yield row[: self.latents.channels]
            else:
                yield row if self._channels_last else row.transpose(1, 2, 0)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """`file_identity`, the tensor's name, and how latents are decoded or the [H, W] of pictures.

        The file is hashed when it is first asked for.
        """
        described: dict[str, Any] = {"kind": "pictures" if self.latents is None else "latents"}
        if self.latents is None:
            shape = self._tensor.shape
            described["size"] = list(shape[1:3] if self._channels_last else shape[2:])
        elif self.contract is not None:
            described["contract"] = self.contract.sha256
        else:
            described |= {"factor": self.latents.scale, "shift": self.latents.shift}
        return described | {"tensor": self._tensor_name} | file_identity(self._path)


def _chosen(tensors: Tensors, path: Path) -> tuple[str, FileTensor]:
    """The tensor that is meant."""
    names = [name for name in PREFERRED if name in tensors] or list(tensors)
    if not names:
        raise UsageError(f"{path} holds no tensor")
    if {"mu", "sigma"} <= {*names}:
        raise UsageError(
            f"{path} holds statistics: they can be a reference; here pictures or latents are needed"
        )
    if len(names) > 1 and names[0] not in PREFERRED:
        raise UsageError(
            f"{path} holds {', '.join(names)}: which of them is meant? call it one of {', '.join(PREFERRED)}"
        )
    return names[0], tensors[names[0]]


def _keys(metadata: Mapping[str, str], count: int, path: Path) -> Sequence[str]:
    if "keys" not in metadata:
        return [f"{row:0{len(str(count - 1))}}" for row in range(count)]
    try:
        keys = json.loads(metadata["keys"])
    except ValueError:
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) != count:
        raise LatentkitError(f"{path}: its keys are no list of {count:,} texts, one for each row")
    return keys


def _are_pictures(tensor: FileTensor, decodable: Decodable | None, where: str) -> bool:
    """Whether it holds pictures; False: latents, where a decoder may take three channels.

    Raises:
        LatentkitError: neither can be.
    """
    shape, floats = tensor.shape, tensor.dtype.kind == "f"
    described = f"{where} is {tensor.dtype} {list(shape)}"
    colour = len(shape) == 4 and 3 in (shape[1], shape[3])
    if colour and tensor.dtype == np.uint8:
        return True
    if len(shape) != 4 or not floats:
        raise LatentkitError(
            f"{described}: give latents, floats [N, C, h, w], or pictures, uint8 [N, H, W, 3] or [N, 3, H, W]"
        )
    channels = decodable.decoder.channels if colour and decodable else 0
    if colour and shape[1] != channels:
        raise LatentkitError(
            f"{described}: pictures must be uint8: save clip(127.5 * x + 128, 0, 255) of x in [-1, 1]"
            + (f"; latents have {channels} channels for this decoder" if channels else "")
        )
    return False


def _contract_beside(path: Path, metadata: Mapping[str, str]) -> Contract | None:
    """The contract of a latent shard whose manifest lies beside it; None for any other file."""
    if "contract" not in metadata or not (path.parent / MANIFEST).exists():
        return None
    contract = ShardManifest.read(path.parent / MANIFEST).contract
    if contract.sha256 != metadata["contract"]:
        raise ContractError(f"{path} is of another contract than the {MANIFEST} beside it")
    return contract


def _space(tensor: FileTensor, contract: Contract | None, decodable: Decodable, where: str) -> LatentSpace:
    """How the latents are decoded."""
    if contract is not None:
        space = decodable.recorded(contract, where)
        try:
            match(tensor.shape[1:], tensor.dtype, contract.outputs[LATENTS])
        except ValueError as error:
            raise LatentkitError(f"{where} is damaged: {error}") from None
        return space
    channels = tensor.shape[1]
    asked = decodable.decoder.channels
    if channels == 2 * asked:
        raise LatentkitError(
            f"{where} is {list(tensor.shape)}: are these moments? save the mean, [:, :{asked}]"
        )
    if channels != asked:
        raise LatentkitError(
            f"{where} is {list(tensor.shape)}: the decoder takes {asked} channels, latents [N, {asked}, h, w]"
        )
    return decodable.told(where)
