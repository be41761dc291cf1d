"""Latents beside the pictures that they were made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract, ContractError
from latentkit.errors import LatentkitError
from latentkit.evaluation.picture_set import PictureSet, named
from latentkit.evaluation.sets.latents import EncodedLatents
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.pixels.geometry import AdmCrop, BucketCrop, CropToMultiple, Geometry, ResizeSquare
from latentkit.prediction.plan import Comparison
from latentkit.sources.source import Fingerprint


class Reconstructions(PictureSet):
    """A dataset's latents, each with its picture as the encoder saw it, matched by key.

    Args:
        latents: encoded from these pictures.
        pictures: the dataset's, in the encoder's geometry.
        made_from: key and fingerprint of the pictures of which it is recorded.

    Attributes:
        pictures: those that have a latent, each at its latent's position.
        left_out: how many have none: they are in quarantine, or were never encoded.
        unrecorded: of how many latents nobody recorded what they were made from.

    Raises:
        ContractError: the latents were made from pictures in another geometry or orientation.
        LatentkitError: there are latents of pictures that the dataset lacks, or that have changed since.
    """

    def __init__(
        self,
        latents: EncodedLatents,
        pictures: SourcePictures,
        made_from: Iterable[tuple[str, Fingerprint]],
    ) -> None:
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
        self.originals = self.pictures = pictures.only(self.keys)
        self.left_out = len(pictures) - len(self)
        self.unrecorded = len(self) - self._check_unchanged(made_from)

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        return self._latents.rows(positions, workers)

    def identity(self) -> dict[str, Any]:
        return self._latents.identity() | {"originals": self.pictures.identity()}

    def _check_unchanged(self, made_from: Iterable[tuple[str, Fingerprint]]) -> int:
        """How many of the pictures have a record: equal size and mtime, or else equal sha256."""
        places = {key: place for place, key in enumerate(self.keys)}
        comparison = Comparison(self.pictures.source)
        recorded: dict[int, bool] = {}
        for key, before in made_from:
            if key in places:
                index = int(self.pictures.indices[places[key]])
                recorded[places[key]] = comparison.picture(index, before)
        if changed := sorted(place for place, same in recorded.items() if not same):
            raise LatentkitError(
                f"{self.pictures.name}: pictures have changed since they were encoded: "
                f"{named(self.keys, changed)}: run latentkit.encode again, or this with encode=true"
            )
        return len(recorded)


def recorded_geometry(contract: Contract) -> Geometry:
    """The geometry that a contract's input describes.

    Raises:
        ContractError: it is none that pictures can be brought to again.
    """
    have = contract.input
    size, buckets = have.get("size"), have.get("buckets")
    candidates: list[Geometry] = []
    if multiple := re.fullmatch(r"centre, to multiples of (\d+)", str(have.get("crop"))):
        candidates.append(CropToMultiple(multiple=int(multiple[1])))
    if isinstance(size, int):
        candidates += [AdmCrop(size=size), ResizeSquare(size=size)]
    if isinstance(buckets, list):
        candidates.append(BucketCrop(buckets=tuple(buckets), multiple=1))
    for geometry in candidates:
        if all(have.get(field) == value for field, value in geometry.describe().items()):
            return geometry
    raise ContractError(
        f"{contract.encoder}: how its pictures were cropped is not recorded: give crop and size"
    )


def _check_input(latents: EncodedLatents, pictures: SourcePictures) -> None:
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
