"""Everything in a set, by key; and decoders that latents are opened for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latentkit.encoders import LatentDecoder, Random
from latentkit.evaluation.compatibility import Decodable
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.step import PictureBatches


class Published(LatentDecoder):
    """Weights that pass for published ones."""

    pretrained = True


SD = Decodable(LatentDecoder(model="none", weights=Random(), architecture={"shift_factor": 0.5}))
SCALED, STORED = replace(SD, scaled=True), replace(SD, scaled=False)


def everything(opened: PictureSet, batch_size: int = 3, workers: int = 0) -> dict[str, np.ndarray]:
    """Key -> latent or pixels; every position once, no batch too large, all of the set's description kept."""
    found = {}
    for batch in PictureBatches(opened, np.arange(len(opened)), batch_size, workers=workers):
        assert batch.positions.dtype == np.int64
        assert 0 < len(batch.positions) <= batch_size
        assert batch.originals is None  # they were not asked for
        for position, row in zip(batch.positions.tolist(), batch.stored.numpy(), strict=True):
            assert opened.keys[position] not in found
            found[opened.keys[position]] = row
    assert sorted(found) == list(opened.keys)
    return found


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, key)
