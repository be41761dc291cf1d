"""Latents that latentkit encoded, alone and beside the pictures that they were made from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError
from latentkit.evaluation.compatibility import LATENTS, Decodable, check_originals
from latentkit.evaluation.picture_set import PictureSet, named, ordered
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.prediction.plan import Comparison
from latentkit.runtime.readable import readable_count
from latentkit.stores.open import open_output

_ROWS = 64


class EncodedLatents(PictureSet):
    """The latents of an encoder's folder; of moments the mean.

    Args:
        path: as `open_output` takes it.
        decodable: which latents are asked for.

    Attributes:
        contract: what the numbers mean.
        output: where they are.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: there are no latents, or what is there is damaged or not complete.
    """

    def __init__(self, path: Path, decodable: Decodable) -> None:
        self.output = open_output(path)
        self.name = self.output.folder.resolve().name
        self.contract: Contract = self.output.contract
        self.latents = decodable.recorded(self.contract, str(path))
        if not len(self.output):
            raise LatentkitError(f"{path} has no latents in it: encode first")
        self.keys, self._places = ordered(list(self.output.keys), str(path))

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        moments = self.contract.stored == "moments"
        for start in range(0, len(positions), _ROWS):
            for array in self.output.rows(LATENTS, self._places[positions[start : start + _ROWS]]):
                yield array[: len(array) // 2] if moments else array

    @property
    def identity(self) -> Mapping[str, Any]:
        """What `Output.identity` says."""
        return {"kind": "latents"} | self.output.identity()


class Reconstructions(PictureSet):
    """A dataset's latents, each with its picture as the encoder saw it, matched by key.

    Args:
        latents: encoded from these pictures.
        pictures: the dataset's, in the encoder's geometry.

    Attributes:
        pictures: those that have a latent, each at its latent's position.
        left_out: how many have none: they are in quarantine, or were never encoded.
        unrecorded: how many latents have no record of the picture they were made from.

    Raises:
        ContractError: the latents were made from pictures in another geometry or orientation.
        LatentkitError: there are latents of pictures that the dataset lacks, or that have changed since.
    """

    def __init__(self, latents: EncodedLatents, pictures: SourcePictures) -> None:
        check_originals(latents.name, latents.contract, pictures.geometry, orient=pictures.source.orient)
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
        self.unrecorded = len(self) - self._check_unchanged()
        self.warnings = []
        if self.left_out:
            self.warnings.append(f"{readable_count(self.left_out, 'picture')} of the dataset without latents")
        if self.unrecorded:
            self.warnings.append(
                f"{readable_count(self.unrecorded, 'latent')} without a record of the picture: "
                "a change since then would go unnoticed"
            )

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        return self._latents.rows(positions, workers)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**self._latents.identity, "originals": self.pictures.identity}

    def _check_unchanged(self) -> int:
        """How many of the pictures have a record: equal size and mtime, or else equal sha256."""
        places = {key: place for place, key in enumerate(self.keys)}
        comparison = Comparison(self.pictures.source)
        recorded = {
            places[key]: comparison.picture(int(self.pictures.indices[places[key]]), before)
            for key, before in self._latents.output.fingerprints()
            if key in places
        }
        if changed := sorted(place for place, same in recorded.items() if not same):
            raise LatentkitError(
                f"{self.pictures.name}: pictures have changed since they were encoded: "
                f"{named(self.keys, changed)}: run latentkit.encode again, or this with encode=true"
            )
        return len(recorded)
