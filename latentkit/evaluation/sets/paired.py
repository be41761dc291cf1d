"""Latents beside the pictures that they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract, ContractError
from latentkit.errors import LatentkitError
from latentkit.evaluation.picture_set import PictureBatch, PictureSet
from latentkit.evaluation.sets.latents import NpyLatents, ShardLatents
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.sets.rows import check_latents, named, stacked
from latentkit.pixels.geometry import AdmCrop, BucketCrop, Geometry, RoundDown, Squash


class Reconstructions(PictureSet):
    """A dataset's latents, each with its picture as the encoder saw it, matched by key.

    Args:
        latents: encoded from these pictures.
        pictures: the dataset's, in the encoder's geometry.

    Attributes:
        pictures: those that have a latent, each at its latent's position.
        left_out: how many have none: they are in quarantine, or were never encoded.

    Raises:
        ContractError: the latents were made from pictures in another geometry or orientation.
        LatentkitError: there are latents of pictures that the dataset lacks.
    """

    paired = True

    def __init__(self, latents: ShardLatents | NpyLatents, pictures: SourcePictures) -> None:
        _check_input(latents, pictures)
        self.name = f"{pictures.name} reconstructions"
        self.keys, self.latents = latents.keys, latents.latents
        self._latents = latents
        there = set(pictures.keys)
        lacking = [position for position, key in enumerate(self.keys) if key not in there]
        if lacking:
            raise LatentkitError(
                f"{latents.name} has latents of {len(lacking):,} pictures that {pictures.name} lacks: "
                f"{named(self.keys, lacking)}: give the dataset that was encoded, whole"
            )
        self.pictures = pictures.only(self.keys)
        self.left_out = len(pictures) - len(self)

    def batches(self, positions: np.ndarray, batch_size: int, workers: int) -> Iterator[PictureBatch]:
        import torch

        latents = self._latents.rows(positions, workers)
        pictures = self.pictures.rows(positions, workers)
        for places, (stack, originals) in stacked(positions, zip(latents, pictures, strict=True), batch_size):
            check_latents(self, places, stack)
            yield PictureBatch(places, latents=torch.from_numpy(stack), originals=torch.from_numpy(originals))

    def identity(self) -> dict[str, Any]:
        return self._latents.identity() | {"originals": self.pictures.identity()}


def recorded_geometry(contract: Contract) -> Geometry:
    """The geometry that a contract's input describes.

    Raises:
        ContractError: it is none that pictures can be brought to again.
    """
    have = contract.input
    size, buckets = have.get("size"), have.get("buckets")
    candidates: list[Geometry] = [RoundDown()]
    if isinstance(size, int):
        candidates += [AdmCrop(size=size), Squash(size=size)]
    if isinstance(buckets, list):
        candidates.append(BucketCrop(buckets=tuple(buckets)))
    for geometry in candidates:
        if all(have.get(field) == value for field, value in geometry.describe().items()):
            return geometry
    raise ContractError(
        f"{contract.encoder}: how its pictures were cropped is not recorded: give crop and size"
    )


def _check_input(latents: ShardLatents | NpyLatents, pictures: SourcePictures) -> None:
    """Raise ContractError unless the pictures are prepared as the latents' were."""
    have = latents.contract.input
    asked = pictures.geometry.describe() if pictures.geometry else {}
    asked |= {"orientation": "exif" if pictures.source.orient else "ignored"}
    for field, value in asked.items():
        if field in have and have[field] != value:
            raise ContractError(
                f"{latents.name}: the contract says input.{field} = {have[field]!r}, the originals are "
                f"prepared with {value!r}: give the settings that encoded them"
            )
