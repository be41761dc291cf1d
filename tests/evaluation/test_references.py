"""Statistics of references: kept, found again, never trusted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipes import photo

from latentkit.encoders import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.references import Reference, cache_path, open_reference
from latentkit.evaluation.statistics import is_statistics, publish_statistics, read_statistics
from latentkit.pixels import AdmCrop, Squash

NETWORKS = {"inception": {"weights": "6726825d", "precision": "32-true"}}
CROP = AdmCrop(size=16)


def moments(seed: int, suffix: str = "", width: int = 6) -> dict[str, np.ndarray]:
    """``mu`` and ``sigma`` of some random features."""
    features = np.random.default_rng(seed).standard_normal((50, width))
    return {f"mu{suffix}": features.mean(axis=0), f"sigma{suffix}": np.cov(features, rowvar=False)}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(photo(number, 20, 24)).save(folder / f"{number}.png")
    return folder


def opened(
    path: Path, folder: Path, networks: Mapping[str, Any] = NETWORKS, geometry: Any = CROP
) -> Reference:
    return open_reference(str(path), geometry=geometry, extractors=networks, folder=folder)


def test_statistics_are_kept_under_what_they_depend_on(photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first = opened(photos, kept)
    assert first.statistics == {}
    assert first.pictures is not None
    assert not kept.exists()
    fid = moments(0) | {"count": np.int64(4)}
    first.keep(fid)
    first.keep(moments(1, "_s"))
    same(opened(photos, kept).statistics, fid | moments(1, "_s"))
    (file,) = kept.iterdir()
    assert file == cache_path(kept, "photos", first.identity)
    with np.load(file, allow_pickle=False) as independent:
        np.testing.assert_array_equal(independent["sigma"], fid["sigma"])

    others = [
        opened(photos, kept, {"inception": {"weights": "random:0", "precision": "32-true"}}),
        opened(photos, kept, geometry=Squash(size=16)),
        opened(photos, kept, geometry=None),
    ]
    os.utime(photos / "2.png", ns=(5, 5))
    others.append(opened(photos, kept))
    assert all(other.statistics == {} for other in others)
    assert len({first.cache, *(other.cache for other in others)}) == 5


def test_a_folder_that_cannot_be_written_to_is_no_reason_to_stop(photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"a file")
    for folder in (kept, kept / "below"):
        reference = opened(photos, folder)
        assert "cannot be written to" in reference.warnings[0]
        reference.keep(moments(0))
    assert kept.read_bytes() == b"a file"


def test_the_bytes_follow_from_the_numbers(tmp_path: Path) -> None:
    identity = {"pictures": {"count": 4}, "extractors": NETWORKS}
    both = moments(0) | moments(1, "_s")
    publish_statistics(tmp_path / "a.npz", both, identity)
    publish_statistics(tmp_path / "b.npz", dict(reversed(both.items())), identity)
    publish_statistics(tmp_path / "c.npz", moments(0), identity)
    publish_statistics(tmp_path / "c.npz", moments(1, "_s"), identity)
    assert len({(tmp_path / f"{name}.npz").read_bytes() for name in "abc"}) == 1
    assert read_statistics(tmp_path / "a.npz")[1] == identity
    publish_statistics(tmp_path / "a.npz", moments(2), identity | {"pictures": None})
    same(read_statistics(tmp_path / "a.npz")[0], moments(2))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_or_foreign_cache_is_not_trusted_and_mends(photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    reference = opened(photos, kept)
    reference.keep(moments(0))
    whole = reference.cache.read_bytes()
    at = len(whole) // 2
    for damaged in (whole[:-9], b"", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        reference.cache.write_bytes(damaged)
        again = opened(photos, kept)
        assert again.statistics == {}
        assert "computed anew" in again.warnings[0]
        again.keep(moments(0))
        assert reference.cache.read_bytes() == whole
    publish_statistics(reference.cache, moments(3), {"pictures": {}, "extractors": {}})
    again = opened(photos, kept)
    assert again.statistics == {}
    assert "other pictures or networks" in again.warnings[0]


def test_a_statistics_file_of_ours_must_be_of_the_same_networks_and_crop(
    photos: Path, tmp_path: Path
) -> None:
    reference = opened(photos, tmp_path)
    file = tmp_path / "val.npz"
    publish_statistics(file, moments(0), reference.identity)
    found = opened(file, tmp_path)
    same(found.statistics, moments(0))
    assert (found.pictures, found.cache, found.warnings) == (None, None, ())
    assert found.identity == reference.identity
    found.keep(moments(1, "_s"))
    same(read_statistics(file)[0], moments(0))
    for networks, geometry, field in (
        (
            {"inception": {"weights": "other", "precision": "32-true"}},
            CROP,
            "weights = '6726825d'.*'other'",
        ),
        ({"inception": {"weights": "6726825d", "precision": "tf32"}}, CROP, r"inception\.precision"),
        (NETWORKS, AdmCrop(size=8), r"geometry\.size = 16, this run uses 8"),
        (NETWORKS, Squash(size=16), r"geometry\.crop = 'adm', this run uses 'none'"),
    ):
        with pytest.raises(ContractError, match=field):
            opened(file, tmp_path, networks, geometry)
    more = NETWORKS | {"dinov3": {"weights": "x"}}
    same(opened(file, tmp_path, more, None).statistics, moments(0))


def test_files_of_other_evaluators(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    adm = moments(0) | moments(1, "_s")
    np.savez(tmp_path / "adm.npz", arr_0=pixels, arr_1=np.arange(5), **adm)
    np.savez(tmp_path / "pytorch_fid.npz", **moments(2))
    np.savez(tmp_path / "pictures.npz", pixels)
    found = opened(tmp_path / "adm.npz", tmp_path)
    same(found.statistics, adm)
    assert "does not record which network" in found.warnings[0]
    (batch,) = found.pictures.batches(np.arange(5), 8, 0)
    np.testing.assert_array_equal(batch.pixels.numpy(), pixels)
    found = opened(tmp_path / "pytorch_fid.npz", tmp_path)
    same(found.statistics, moments(2))
    assert found.pictures is None
    assert "sha256" in found.identity
    found = opened(tmp_path / "pictures.npz", tmp_path / "kept")
    assert (found.statistics, found.warnings) == ({}, ())
    assert len(found.pictures) == 5
    assert [is_statistics(path) for path in sorted(tmp_path.glob("*.npz"))] == [True, False, True]


def test_what_is_no_reference(tmp_path: Path) -> None:
    good = moments(0)
    wrong = {
        "shape": ({"mu": good["mu"], "sigma": good["sigma"][:4]}, r"mu is \[6\] and sigma is \[4, 6\]"),
        "alone": ({"mu": good["mu"]}, "it has mu and no sigma"),
        "mean": ({"sigma_s": good["sigma"], **good}, "it has sigma_s and no mu_s"),
        "nan": (good | {"mu": good["mu"] * np.nan}, "mu is not finite"),
        "skew": (good | {"sigma": np.triu(good["sigma"])}, "sigma is not symmetric"),
        "negative": (good | {"sigma": -good["sigma"]}, "negative variance"),
        "object": (good | {"mu": np.array([{}] * 6, dtype=object)}, "allow_pickle"),
        "text": (good | {"note": np.array("hello")}, "note is <U5, not numbers"),
        "identity": (good | {"identity": np.array("[1]")}, "its identity is no object"),
    }
    for name, (arrays, told) in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(LatentkitError, match=f"{name}.npz cannot be used as statistics: .*{told}"):
            opened(tmp_path / f"{name}.npz", tmp_path)
    np.save(tmp_path / "latents.npy", np.zeros((4, 4, 2, 2), np.float32))
    with pytest.raises(UsageError, match="holds latents: pictures are needed"):
        opened(tmp_path / "latents.npy", tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        opened(tmp_path / "absent.npz", tmp_path)
    with pytest.raises(LatentkitError, match="mu is not finite, it is not written"):
        publish_statistics(tmp_path / "new.npz", {"mu": np.array([np.inf])}, {})
    assert not (tmp_path / "new.npz").exists()
