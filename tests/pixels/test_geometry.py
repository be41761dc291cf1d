"""Crops against the reference implementations' values, and the promises that every geometry makes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import photo

from latentkit.errors import UsageError
from latentkit.pixels import AdmCrop, BucketCrop, CropToMultiple, DecodeError, Geometry, ResizeSquare
from latentkit.pixels.geometry import ASPECT_BUCKETS, AntialiasedResize

GOLDEN = Path(__file__).parent / "golden"
ADM_SIZES = ["375x500", "500x333", "256x256", "1024x768", "200x150", "1300x431", "257x513"]
GEOMETRIES = [AdmCrop(size=64), ResizeSquare(), AntialiasedResize(), BucketCrop(), CropToMultiple()]
DINO_SIZES = ["375x500", "500x333", "224x224", "1024x768", "97x181"]


def picture(seed: int, size: str) -> np.ndarray:
    """``size`` is height x width, as the golden files name it."""
    height, width = map(int, size.split("x"))
    return photo(seed, height, width)


@pytest.mark.parametrize(("index", "size"), list(enumerate(ADM_SIZES)))
def test_adm_crop_is_guided_diffusions(index: int, size: str) -> None:
    expected = np.load(GOLDEN / "adm_crop.npz")[size]
    assert np.array_equal(AdmCrop(size=256)(picture(100 + index, size)), expected)


@pytest.mark.parametrize(("index", "size"), list(enumerate(DINO_SIZES)))
def test_antialiased_resize_is_the_dinov3_processors(index: int, size: str) -> None:
    array = AntialiasedResize(size=224)(picture(200 + index, size))
    normalised = (array / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = np.load(GOLDEN / "dinov3_pixels.npz")[size]
    assert np.abs(normalised.transpose(2, 0, 1)[:, ::3, ::3] - expected).max() < 1e-4


def test_antialiased_resize_is_torchs_at_another_size() -> None:
    image = picture(7, "301x97")
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (64, 64), mode="bilinear", antialias=True)
    array = torch.from_numpy(AntialiasedResize(size=64)(image)).permute(2, 0, 1)[None]
    torch.testing.assert_close(array, expected, atol=0.01, rtol=0)


def test_squash_keeps_every_corner() -> None:
    corners = np.zeros((90, 200, 3), np.uint8)
    corners[:45, :100, 0] = corners[:45, 100:, 1] = corners[45:, :100, 2] = 255
    small = ResizeSquare(size=16)(corners)
    assert small[0, 0].tolist() == [255, 0, 0]
    assert small[0, -1].tolist() == [0, 255, 0]
    assert small[-1, 0].tolist() == [0, 0, 255]
    assert small[-1, -1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", ["131x257", "300x90", "8x8"])
def test_every_geometry_keeps_its_promises(geometry: Geometry, size: str) -> None:
    image = picture(3, size)
    array = geometry(image)
    height, width, _ = image.shape
    assert array.shape == (*geometry.shape(width, height), 3)
    assert array.dtype == np.dtype(geometry.dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert 0 <= array.min() <= array.max() <= 255
    largest = geometry.largest()
    assert largest is None or array.shape[0] * array.shape[1] <= largest[0] * largest[1]
    assert hash(geometry) == hash(type(geometry)(**vars(geometry)))


def test_contracts_tell_geometries_apart() -> None:
    geometries = [AdmCrop(), AdmCrop(size=512), ResizeSquare(), AntialiasedResize(size=256), BucketCrop()]
    geometries += [BucketCrop(buckets=("512x512",)), CropToMultiple(), CropToMultiple(multiple=16)]
    assert len({str(geometry.describe()) for geometry in geometries}) == len(geometries)


@pytest.mark.parametrize("bucket", ASPECT_BUCKETS)
def test_a_picture_of_a_buckets_size_is_untouched(bucket: str) -> None:
    width, height = map(int, bucket.split("x"))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(BucketCrop()(pixels), pixels)
    assert BucketCrop().facts(width, height) == {"aspect_bucket": bucket}


def test_the_nearest_bucket_is_nearest_by_log_ratio() -> None:
    rng = np.random.default_rng(5)
    for width, height in rng.integers(50, 4000, (300, 2)).tolist():
        distances = {
            f"{w}x{h}": abs(math.log(width / height) - math.log(w / h))
            for w, h in (map(int, bucket.split("x")) for bucket in ASPECT_BUCKETS)
        }
        assert distances[BucketCrop().bucket_of(width, height)] == pytest.approx(min(distances.values()))


def test_of_two_buckets_equally_near_the_first_is_taken() -> None:
    assert BucketCrop(buckets=("832x1216", "1216x832")).bucket_of(500, 500) == "832x1216"
    assert BucketCrop(buckets=("1216x832", "832x1216")).bucket_of(500, 500) == "1216x832"


def test_bucket_crop_covers_and_takes_the_middle() -> None:
    third = np.zeros((100, 300, 3), np.uint8)
    third[:, 100:200] = 255
    assert BucketCrop(buckets=("64x64",))(third)[:, 4:-4].min() > 240  # LANCZOS rings at the edge


def test_unusual_ratios() -> None:
    assert BucketCrop().notes(1000, 400) == ()
    assert BucketCrop().notes(400, 1000) == ()
    assert BucketCrop().notes(1001, 400) == ("unusual aspect",)
    assert BucketCrop().notes(399, 1000) == ("unusual aspect",)


def test_round_down_takes_the_centre_of_the_original_pixels() -> None:
    pixels = photo(1, 21, 30)
    assert np.array_equal(CropToMultiple()(pixels), pixels[2:18, 3:27])


def test_a_picture_smaller_than_the_multiple_is_refused() -> None:
    with pytest.raises(DecodeError, match="300x7 pixels: a side is smaller than 8"):
        CropToMultiple()(np.zeros((7, 300, 3), np.uint8))


@pytest.mark.parametrize("geometry", [AdmCrop(size=256), BucketCrop()])
def test_a_sliver_does_not_grow_without_bound(geometry: Geometry) -> None:
    with pytest.raises(DecodeError, match="1x60000 pixels: too narrow"):
        geometry(np.zeros((60000, 1, 3), np.uint8))


@pytest.mark.parametrize("bucket", ["1024", "1024X1024", "0x8", "1020x1024", "-8x8", "8x8x8", ""])
def test_a_malformed_bucket_is_named(bucket: str) -> None:
    with pytest.raises(UsageError, match=f"bucket '{bucket}' is not WIDTHxHEIGHT"):
        BucketCrop(buckets=("512x512", bucket))


def test_sizes_are_checked() -> None:
    with pytest.raises(UsageError, match="AdmCrop: size=0"):
        AdmCrop(size=0)
    with pytest.raises(UsageError, match="multiple=0"):
        CropToMultiple(multiple=0)
    with pytest.raises(UsageError, match="buckets is empty"):
        BucketCrop(buckets=())
