"""What is read of statistics, saved of them, and kept beside ADM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import photo
from statistics_files import NEEDED, NETWORKS, moments, opened, same, saved

from latentkit.encoders import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.statistics import publish_statistics, read_statistics
from latentkit.pixels import AdmCrop, BucketCrop, Geometry, ResizeSquare


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(photo(number, 20, 24)).save(folder / f"{number}.png")
    return folder


def test_the_pictures_in_adms_file_are_looked_at_once(tmp_path: Path) -> None:
    file, kept = tmp_path / "VIRTUAL_imagenet256_labeled.npz", tmp_path / "kept"
    pictures = np.stack([photo(number, 8, 8) for number in range(3)])
    np.savez(file, arr_0=pictures, **moments(0))
    first = opened(file, kept)
    same(first.statistics, moments(0))
    assert not first.recorded
    features = {"pool3": np.ones((3, 4), np.float32), "mu": np.zeros(6), "sigma": np.eye(6)}
    first.keep(features | {"count": np.array(3), "picture_size": np.array([8, 8])})
    again = opened(file, kept)
    assert not again.recorded
    expected = moments(0) | {"pool3": features["pool3"], "picture_size": np.array([8, 8])}
    same(again.statistics, expected)  # its own mu, and no count: nobody knows of how many pictures that is
    assert again.identity == first.identity
    assert "pool3" not in opened(file, kept, extractors={"inception": {"weights": "other"}}).statistics
    with np.load(file) as untouched:
        assert set(untouched.files) == {"arr_0", "mu", "sigma"}


def test_only_what_metrics_need_is_read(tmp_path: Path) -> None:
    file = tmp_path / "val.npz"
    identity = {"pictures": {"kind": "pictures"}, "extractors": NETWORKS}
    large = {"pool3": np.full((64, 32), 7, np.float32)}
    publish_statistics(file, moments(0) | large | {"count": np.array(64)}, identity)
    content = bytearray(file.read_bytes())
    place = content.index(large["pool3"].tobytes()[:256])
    content[place : place + 4] = b"\x00\x00\x80\x7f"
    file.write_bytes(content)
    with pytest.raises(LatentkitError, match="cannot be used as statistics"):
        read_statistics(file)
    found, recorded = read_statistics(file, ["mu", "sigma", "mu_s"])
    same(found, moments(0) | {"count": np.array(64)})
    assert recorded == identity
    assert set(
        opened(file, tmp_path, needed={name: NEEDED[name] for name in ("mu", "sigma")}).statistics
    ) == {"mu", "sigma", "count"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ResizeSquare(size=16), "crop=adm size=16, this run has crop=resize size=16"),
        (AdmCrop(size=32), "crop=adm size=16, this run has crop=adm size=32"),
        ("as they are", "crop=adm size=16, this run has crop=none"),
        (BucketCrop(), 'crop=adm size=16, this run has {"buckets"'),
    ],
)
def test_crops_are_told_as_the_command_line_has_them(
    photos: Path, tmp_path: Path, asked: Geometry, words: str
) -> None:
    reference = opened(photos, tmp_path / "kept", geometry=AdmCrop(size=16))
    saved(reference, tmp_path / "val.npz", moments(0))
    with pytest.raises(ContractError) as refused:
        opened(tmp_path / "val.npz", tmp_path / "kept", geometry=asked)
    assert words in str(refused.value)


def test_saving_adds_to_a_file_and_never_replaces_anothers(photos: Path, tmp_path: Path) -> None:
    kept, file = tmp_path / "kept", tmp_path / "new/val.npz"
    reference = opened(photos, kept)
    reference.check_saving(file)
    saved(reference, file, moments(0))
    reference.check_saving(file)
    saved(opened(photos, kept), file, moments(1, "_s"))
    found, recorded = read_statistics(file)
    same(found, moments(0) | moments(1, "_s"))
    assert recorded is not None
    assert recorded["extractors"] == NETWORKS
    other = opened(photos, kept, geometry=ResizeSquare(size=16))
    with pytest.raises(UsageError, match=r"val\.npz: it holds statistics of other pictures or networks"):
        other.check_saving(file)
    bare = tmp_path / "bare.npz"
    np.savez(bare, **moments(0))
    with pytest.raises(UsageError, match=r"bare\.npz does not record what its statistics are of"):
        opened(bare, kept).check_saving(tmp_path / "copy.npz")


def test_what_is_saved_among_kept_ones_takes_their_lock(photos: Path, tmp_path: Path) -> None:
    reference = opened(photos, tmp_path / "kept")
    saved(reference, tmp_path / "kept" / "val.npz", moments(0))
    assert (tmp_path / "kept" / ".lock").exists()
    saved(reference, tmp_path / "elsewhere.npz", moments(0))
    assert not (tmp_path / ".lock").exists()
