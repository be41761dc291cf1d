"""Which set of pictures a path is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentkit.encoders.contract import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.sets.latents import CONTRACT, NpyLatents, ShardLatents
from latentkit.evaluation.sets.paired import Reconstructions
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.sets.space import LATENTS, Decodable, latent_channels
from latentkit.evaluation.sets.tensor_files import SUFFIXES
from latentkit.evaluation.sets.tensors import TensorRows
from latentkit.pixels.geometry import Geometry
from latentkit.sources import FolderSource
from latentkit.stores.claim import read_claim
from latentkit.stores.shard_manifest import MANIFEST

FEWEST = 2
"""No statistic is defined on fewer pictures."""


def open_set(
    path: str,
    *,
    channels: int,
    geometry: Geometry | None = None,
    factor: float = 1.0,
    shift: float = 0.0,
    scaled: bool | None = None,
    allow_random: bool = False,
) -> PictureSet:
    """The pictures or latents at a path.

    A folder of latent shards or its ``manifest.json``; an encoder's folder of ``store=npy``, or an output_dir
    that holds one such; a tensor file (see `TensorRows`); else a folder of pictures.

    Args:
        channels, factor, shift, scaled, allow_random: what the decoder takes; see `Decodable`.
        geometry: how picture files are cropped; None leaves them as they are. Tensors are never cropped.

    Raises:
        UsageError: nothing that can be evaluated is there.
        ContractError: latents were made for another decoder.
        LatentkitError: what is there is damaged, or fewer than two pictures.
    """
    place = Path(path).expanduser()
    decodable = Decodable(
        channels=channels, factor=factor, shift=shift, scaled=scaled, allow_random=allow_random
    )
    opened: PictureSet
    if not place.exists():
        raise UsageError(f"{path} does not exist: give {_CHOICES}")
    if place.is_dir():
        latents = _find_latents(place, decodable)
        opened = latents or SourcePictures(FolderSource(root=str(place)), geometry, place.resolve().name)
    elif place.name == MANIFEST:
        opened = ShardLatents(place, decodable)
    elif place.suffix in SUFFIXES:
        opened = TensorRows(place, decodable)
    else:
        raise UsageError(f"{path} is nothing that can be evaluated: give {_CHOICES}")
    return _enough(opened)


def open_generated(path: str | None, output_dir: str, pictures: SourcePictures, **decoder: Any) -> PictureSet:
    """What is evaluated.

    Args:
        path: as for `open_set`; picture files are taken as they are. None: the dataset's own latents.
        output_dir: where these lie.
        pictures: the dataset's, in the geometry of the encoder that made them.
        decoder: ``channels`` and what else `Decodable` has.

    Raises:
        UsageError: there are no latents yet; else as `open_set` and `Reconstructions`.
    """
    if path is not None:
        return open_set(path, **decoder)
    latents = _find_latents(Path(output_dir), Decodable(**decoder))
    if latents is None:
        raise UsageError(
            f"{output_dir} holds no latents: run python -m latentkit.encode with the same dataset first, "
            "or give generated=PATH"
        )
    return _enough(Reconstructions(latents, pictures))


def _find_latents(folder: Path, decodable: Decodable) -> ShardLatents | NpyLatents | None:
    """The latents of a folder, or of one folder in it; None where there are none.

    Raises:
        UsageError: several folders in it would do.
        ContractError: none of them is the decoder's.
    """
    if (folder / MANIFEST).exists():
        return ShardLatents(folder, decodable)
    if (folder / CONTRACT).exists():
        return NpyLatents(folder, decodable)
    claims = {claim.parent: claim for name in (MANIFEST, CONTRACT) for claim in folder.glob(f"*/{name}")}
    contracts = {inside: read_claim(claim) for inside, claim in sorted(claims.items())}
    channels = {
        inside: latent_channels(contract)
        for inside, contract in contracts.items()
        if LATENTS in contract.outputs
    }
    fitting = [inside for inside, count in channels.items() if count == decodable.channels]
    if len(fitting) == 1:
        return _find_latents(fitting[0], decodable)
    told = ", ".join(f"{inside.name} ({count} channels)" for inside, count in channels.items())
    if fitting:
        raise UsageError(f"{folder} holds {told}: name the folder of one of them")
    if channels:
        raise ContractError(f"{folder} holds {told}, the decoder takes {decodable.channels}: choose another")
    return None


def _enough(opened: PictureSet) -> PictureSet:
    if len(opened) < FEWEST:
        raise LatentkitError(f"{opened.name} holds {len(opened)} of the at least {FEWEST} pictures needed")
    return opened


_CHOICES = (
    "a folder of latents (manifest.json or contract.json), a folder of pictures, or a tensor file "
    f"({' '.join(SUFFIXES)})"
)
