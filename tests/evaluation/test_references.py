"""Statistics of references: kept, found again, never trusted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipes import photo
from statistics_files import NEEDED, NETWORKS, moments, same, saved
from statistics_files import opened as opened_with
from store_run import kill_at

from latentkit.encoders import ContractError
from latentkit.errors import UsageError
from latentkit.evaluation.references import Reference
from latentkit.evaluation.statistics import is_statistics, publish_statistics, read_statistics
from latentkit.evaluation.step import PictureBatches
from latentkit.pixels import AdmCrop, ResizeSquare

CROP = AdmCrop(size=16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(photo(number, 20, 24)).save(folder / f"{number}.png")
    return folder


def opened(
    path: Path,
    folder: Path,
    networks: Mapping[str, Any] = NETWORKS,
    geometry: Any = CROP,
    orient: bool | None = None,
) -> Reference:
    return opened_with(path, folder, geometry=geometry, orient=orient, extractors=networks)


def files_of(*references: Reference) -> list[Path]:
    """Where statistics of Inception are kept."""
    return [file.path for reference in references for file in reference.kept]


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
    file, lock = sorted(kept.iterdir(), reverse=True)
    assert [file] == files_of(first)
    assert file.name.startswith("photos-")
    assert lock == kept / ".lock"
    with np.load(file, allow_pickle=False) as independent:
        np.testing.assert_array_equal(independent["sigma"], fid["sigma"])

    others = [
        opened(photos, kept, {"inception": {"weights": "random:0", "precision": "32-true"}}),
        opened(photos, kept, geometry=ResizeSquare(size=16)),
        opened(photos, kept, geometry=None),
    ]
    os.utime(photos / "2.png", ns=(5, 5))
    others.append(opened(photos, kept))
    assert all(other.statistics == {} for other in others)
    assert len({*files_of(first, *others)}) == 5


def test_equal_names_sizes_and_times_in_another_place_are_other_pictures(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, other = tmp_path / "kept", tmp_path / "other/photos"
    shutil.copytree(photos, other)  # copy2: mtimes too
    (tmp_path / "link").symlink_to(photos)
    opened(photos, kept).keep(moments(0))
    assert opened(other, kept).statistics == {}
    monkeypatch.chdir(other)
    for same_place in (tmp_path / "link", Path("../../photos"), photos / "../photos"):
        found = opened(same_place, kept)
        assert found.identity["pictures"] == opened(photos, kept).identity["pictures"]
    same(opened(Path("../../photos"), kept).statistics, moments(0))


def test_a_folder_that_cannot_be_written_to_is_no_reason_to_stop(photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"a file")
    for folder in (kept, kept / "below"):
        reference = opened(photos, folder)
        assert "cannot be written to" in reference.warnings[0]
        reference.keep(moments(0))
    assert kept.read_bytes() == b"a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may go into any folder")
def test_a_folder_that_cannot_be_entered_is_no_reason_to_stop(photos: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    for folder in (closed, closed / "below"):
        (warning,) = opened(photos, folder).warnings
        assert f"{folder} cannot be written to" in warning


@pytest.mark.parametrize("name", ["a" * 250, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 125])
def test_a_reference_with_a_long_name_is_kept(photos: Path, tmp_path: Path, name: str) -> None:
    long = photos.rename(tmp_path / name)
    opened(long, tmp_path / "kept").keep(moments(0))
    same(opened(long, tmp_path / "kept").statistics, moments(0))


def test_a_damaged_or_foreign_cache_is_not_trusted_and_mends(photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    reference = opened(photos, kept)
    reference.keep(moments(0))
    whole = files_of(reference)[0].read_bytes()
    at = len(whole) // 2
    for damaged in (whole[:-9], b"", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        files_of(reference)[0].write_bytes(damaged)
        again = opened(photos, kept)
        assert again.statistics == {}
        assert "computed anew" in again.warnings[0]
        again.keep(moments(0))
        assert files_of(reference)[0].read_bytes() == whole
    publish_statistics(files_of(reference)[0], moments(3), {"pictures": {}, "extractors": {}})
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
    assert (found.pictures, found.kept, found.warnings) == (None, [], [])
    assert found.identity == reference.identity
    assert found.recorded
    found.keep(moments(1, "_s"))
    same(read_statistics(file)[0], moments(0))
    for networks, geometry, field in (
        (
            {"inception": {"weights": "other", "precision": "32-true"}},
            CROP,
            "weights = '6726825d'.*'other'",
        ),
        ({"inception": {"weights": "6726825d", "precision": "tf32"}}, CROP, r"inception\.precision"),
        (NETWORKS, AdmCrop(size=8), "crop=adm size=16, this run has crop=adm size=8"),
        (NETWORKS, ResizeSquare(size=16), "crop=adm size=16, this run has crop=resize size=16"),
    ):
        with pytest.raises(ContractError, match=field):
            opened(file, tmp_path, networks, geometry)
    with pytest.raises(ContractError, match="crop=adm size=16, this run has crop=none"):
        opened(file, tmp_path, geometry="as they are")
    with pytest.raises(ContractError, match="orientation = 'exif', this run uses 'ignored'"):
        opened(file, tmp_path, orient=False)
    same(opened(file, tmp_path, orient=True).statistics, moments(0))
    more = NETWORKS | {"dinov3": {"weights": "x"}}
    same(opened(file, tmp_path, more, None).statistics, moments(0))


def test_pictures_as_they_are_are_a_record_too(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "val.npz"
    publish_statistics(file, moments(0), opened(photos, tmp_path, geometry="as they are").identity)
    for asked in ("as they are", None):
        same(opened(file, tmp_path, geometry=asked).statistics, moments(0))
    with pytest.raises(ContractError, match="crop=none, this run has crop=adm size=16"):
        opened(file, tmp_path)
    np.save(tmp_path / "p.npy", np.zeros((4, 8, 8, 3), np.uint8))
    publish_statistics(file, moments(1), opened(tmp_path / "p.npy", tmp_path).identity)
    for asked in (CROP, "as they are", None):
        same(opened(file, tmp_path, geometry=asked, orient=True).statistics, moments(1))


def test_the_size_of_the_pictures(photos: Path, tmp_path: Path) -> None:
    """Height and width: of photos of 20x24, of crops of them, and of rows of 6x8."""
    assert opened(photos, tmp_path).picture_size == (16, 16)
    plain = opened(photos, tmp_path, geometry=None)
    assert plain.picture_size is None
    plain.keep(moments(0) | {"picture_size": np.array((20, 24))})
    assert opened(photos, tmp_path, geometry=None).picture_size == (20, 24)
    rows = np.zeros((4, 6, 8, 3), np.uint8)
    np.save(tmp_path / "last.npy", rows)
    np.save(tmp_path / "first.npy", rows.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "adm.npz", arr_0=rows, **moments(0))
    for name in ("last.npy", "first.npy", "adm.npz"):
        assert opened(tmp_path / name, tmp_path).picture_size == (6, 8), name
    for path in (photos, tmp_path / "last.npy"):
        source = opened(path, tmp_path)
        publish_statistics(tmp_path / "own.npz", moments(0), source.identity)
        assert opened(tmp_path / "own.npz", tmp_path).picture_size == source.picture_size is not None
    np.savez(tmp_path / "fid.npz", **moments(0))
    assert opened(tmp_path / "fid.npz", tmp_path).picture_size is None


def keeping(reference: Reference, statistics: Mapping[str, np.ndarray], nth: int = 0) -> int:
    """A forked process that keeps statistics, and kills itself at the nth fsync, rename or removal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            kill_at(nth)
            reference.keep(statistics)
            status = 0
        finally:
            os._exit(status)
    return child


def test_what_evaluations_keep_at_one_time_is_all_kept(photos: Path, tmp_path: Path) -> None:
    found = [moments(number, f"_{number}", 200) for number in range(6)]
    reference = opened(photos, tmp_path / "kept")
    children = [keeping(reference, statistics) for statistics in found]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    everything = {name: array for statistics in found for name, array in statistics.items()}
    same(opened(photos, tmp_path / "kept").statistics, everything)


@pytest.mark.parametrize("before", [{}, moments(0)], ids=["no file", "a file"])
def test_a_kill_leaves_the_old_file_or_the_new(
    photos: Path, tmp_path: Path, before: dict[str, np.ndarray]
) -> None:
    left, temporaries, nth = [], 0, 0
    while True:
        nth += 1
        kept = tmp_path / f"kept{nth}"
        reference = opened(photos, kept)
        reference.keep(before)
        _, status = os.waitpid(keeping(reference, moments(1, "_s"), nth), 0)
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        if kept.exists():
            left.append(opened(photos, kept))
            temporaries += len(list(kept.glob(".latentkit-*")))
        reference.keep(moments(2, "_t"))
        assert sorted(path.name for path in kept.iterdir()) == [".lock", files_of(reference)[0].name]
    assert all(found.warnings == [] for found in left)
    new = before | moments(1, "_s")
    renamed = [found.statistics.keys() == new.keys() for found in left]
    assert {False, True} == {*renamed}
    for found, whole in zip(left, renamed, strict=True):
        same(found.statistics, new if whole else before)
    assert temporaries > 0


def test_where_nothing_can_be_locked_it_is_kept_all_the_same(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = opened(photos, tmp_path / "kept")
    (tmp_path / "kept/.lock").mkdir(parents=True)
    reference.keep(moments(0))
    assert "what two evaluations add there at one time may be lost" in caplog.text
    same(opened(photos, tmp_path / "kept").statistics, moments(0))


def test_files_of_other_evaluators(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    adm = moments(0) | moments(1, "_s")
    np.savez(tmp_path / "adm.npz", arr_0=pixels, arr_1=np.arange(5), **adm)
    np.savez(tmp_path / "pytorch_fid.npz", **moments(2))
    np.savez(tmp_path / "pictures.npz", pixels)
    found = opened(tmp_path / "adm.npz", tmp_path)
    same(found.statistics, adm)
    assert "does not record which network" in found.warnings[0]
    assert not found.recorded
    (batch,) = PictureBatches(found.pictures, np.arange(5), 8)
    np.testing.assert_array_equal(batch.stored.numpy(), pixels)
    found = opened(tmp_path / "pytorch_fid.npz", tmp_path)
    same(found.statistics, moments(2))
    assert found.pictures is None
    assert not found.recorded
    assert "sha256" in found.identity
    found = opened(tmp_path / "pictures.npz", tmp_path / "kept")
    assert (found.statistics, found.warnings, found.recorded) == ({}, [], True)
    assert len(found.pictures) == 5
    assert [is_statistics(path) for path in sorted(tmp_path.glob("*.npz"))] == [True, False, True]


def test_what_is_no_reference(tmp_path: Path) -> None:
    np.save(tmp_path / "latents.npy", np.zeros((4, 4, 2, 2), np.float32))
    with pytest.raises(UsageError, match="holds latents: pictures are needed"):
        opened(tmp_path / "latents.npy", tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        opened(tmp_path / "absent.npz", tmp_path)


def test_each_network_keeps_its_own_whatever_else_a_run_has(photos: Path, tmp_path: Path) -> None:
    both = NETWORKS | {"dinov3": {"weights": "x"}}
    needed = NEEDED | {"mu_dinov3": {"dinov3"}, "sigma_dinov3": {"dinov3"}, "colours": set()}
    kept, fd = tmp_path / "kept", moments(2, "_dinov3")
    found = moments(0) | fd | {"colours": np.ones(3), "count": np.int64(4)}
    opened_with(photos, kept, geometry=CROP, extractors=both, needed=needed).keep(found)
    assert len(list(kept.glob("photos-*.npz"))) == 3
    alone = opened_with(photos, kept, geometry=CROP)
    same(alone.statistics, moments(0) | {"count": np.int64(4)})
    of_others = {name: {"dinov3"} for name in fd}
    dinov3 = opened_with(photos, kept, geometry=CROP, extractors={"dinov3": both["dinov3"]}, needed=of_others)
    same(dinov3.statistics, fd | {"count": np.int64(4)})
    same(opened_with(photos, kept, geometry=CROP, extractors=both, needed=needed).statistics, found)


def test_statistics_of_a_network_that_the_metric_does_not_read_are_not_used(
    photos: Path, tmp_path: Path
) -> None:
    saved(opened(photos, tmp_path), tmp_path / "val.npz", moments(0))
    other = {"dinov3": {"weights": "x"}}
    of_dinov3 = {"mu": {"dinov3"}, "sigma": {"dinov3"}}
    assert opened_with(tmp_path / "val.npz", tmp_path, extractors=other, needed=of_dinov3).statistics == {}
    same(opened_with(tmp_path / "val.npz", tmp_path).statistics, moments(0))
