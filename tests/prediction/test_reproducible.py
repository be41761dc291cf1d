"""A picture's numbers depend on the picture alone: not on its batch, its neighbours or the VRAM profile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_runs import Collected, encode, stream, through_step, units

from latentkit.encoders import T5, Autoencoder, DINOv3, Encoder, Random
from latentkit.prediction.encoding import EncodingStep
from latentkit.sources import DemoSource
from latentkit.stores import NpyStore

BUCKETS = ["128x128", "96x144", "144x96"]
ENCODERS: list[Encoder] = [
    DINOv3(weights=Random(), batch_size=4, patches=True),
    Autoencoder(
        name="flux_vae",
        model="none",
        architecture={"latent_channels": 16},
        crop="bucket",
        buckets=BUCKETS,
        weights=Random(),
        batch_size=3,
        posterior="sample",
    ),
    Autoencoder(name="sd_vae", model="none", size=64, weights=Random(), batch_size=4),
    T5(weights=Random(), batch_size=4),
]
PICTURES = 13


def name_of(encoder: Encoder) -> str:
    return encoder.name


@pytest.mark.parametrize("encoder", ENCODERS, ids=name_of)
def test_outputs_do_not_depend_on_which_pictures_share_a_batch(encoder: Encoder) -> None:
    source = DemoSource(pictures=PICTURES)
    step = EncodingStep([encoder], Collected().fail)

    def encoded(*parts: list[int]) -> dict[str, dict[str, np.ndarray]]:
        sink = Collected()
        through_step(step, stream(source, [(encoder, units(*parts))]), sink)
        return sink.arrays(encoder.name)

    together = encoded(list(range(PICTURES)))
    assert len(together) == PICTURES
    some = [0, 3, 6, 7, 11]
    for arrays in (encoded(*([index] for index in some)), encoded(some), encoded([1, 2, *some[1:]])):
        assert len(arrays) >= 5
        for key, outputs in arrays.items():
            for output, array in outputs.items():
                assert array.dtype == encoder.outputs[output]["dtype"]
                assert np.array_equal(array, together[key][output]), (key, output)
    values = [array for outputs in together.values() for array in outputs.values()]
    assert all(array.std() > 0 for array in values)
    first, second = (next(iter(together[key].values())) for key in list(together)[:2])
    assert first.shape != second.shape or not np.array_equal(first, second)


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One encoder at a time."""
    root = tmp_path_factory.mktemp("low")
    encode(root, DemoSource(pictures=PICTURES), ENCODERS, resident="one", workers=1)
    return root


def outputs(root: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(root)): np.load(path) for path in sorted(root.glob("*/*.npy"))}


def test_both_profiles_give_the_same_bytes_where_batches_have_the_same_shape(
    tmp_path: Path, low: Path
) -> None:
    encode(tmp_path, DemoSource(pictures=PICTURES), ENCODERS, resident="all", workers=1)
    ours, theirs = outputs(tmp_path), outputs(low)
    assert len(theirs) == PICTURES * 5
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    records = NpyStore(root="").records
    assert (tmp_path / records).read_bytes() == (low / records).read_bytes()


def test_another_batch_size_changes_no_more_than_rounding(tmp_path: Path, low: Path) -> None:
    larger = [dataclasses.replace(encoder, batch_size=encoder.batch_size + 3) for encoder in ENCODERS]
    encode(tmp_path, DemoSource(pictures=PICTURES), larger, resident="all", workers=1)
    ours, theirs = outputs(tmp_path), outputs(low)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        exact = array.astype(np.float64)
        error = np.linalg.norm(ours[name] - exact) / np.linalg.norm(exact)
        assert error < (1e-5 if array.dtype == np.float32 else 1e-3), name
