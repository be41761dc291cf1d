"""Latents that latentkit encoded: their contract says how they are decoded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError
from latentkit.evaluation.compatibility import LATENTS, Decodable
from latentkit.evaluation.picture_set import PictureSet, ordered
from latentkit.stores.output import open_output

_ROWS = 64


class EncodedLatents(PictureSet):
    """The latents of an encoder's folder; of moments the mean.

    Args:
        path: as `open_output` takes it.
        decodable: which latents are asked for.

    Attributes:
        contract: what the numbers mean.

    Raises:
        ContractError: names the field that is not as asked.
        LatentkitError: there are no latents, or what is there is damaged or not complete.
    """

    def __init__(self, path: Path, decodable: Decodable) -> None:
        self._output = open_output(path)
        self.name = self._output.folder.resolve().name
        self.contract: Contract = self._output.contract
        self.latents = decodable.recorded(self.contract, str(path))
        if not len(self._output):
            raise LatentkitError(f"{path} has no latents in it: encode first")
        self.keys, self._places = ordered(list(self._output.keys), str(path))

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        moments = self.contract.stored == "moments"
        for start in range(0, len(positions), _ROWS):
            for array in self._output.rows(LATENTS, self._places[positions[start : start + _ROWS]]):
                yield array[: len(array) // 2] if moments else array

    def fingerprints(self) -> Iterator[tuple[str, Any]]:
        """Key and fingerprint of the pictures of which it is recorded."""
        return self._output.fingerprints()

    def identity(self) -> dict[str, Any]:
        """What `Output.identity` says."""
        return {"kind": "latents"} | self._output.identity()
