"""The demo's pictures: the same everywhere, and between them everything that the pixels have to bear."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import pytest
from PIL import Image

from latentkit.errors import UsageError
from latentkit.pixels import BucketCrop, Pillow
from latentkit.pixels.geometry import ASPECT_BUCKETS
from latentkit.sources import DemoSource


def test_equal_seeds_give_equal_bytes_in_any_order() -> None:
    first, again = DemoSource(pictures=16), DemoSource(pictures=16)
    forwards = [first.read(index) for index in range(16)]
    assert forwards == [again.read(index) for index in reversed(range(16))][::-1]
    assert [first[index] for index in range(16)] == [again[index] for index in range(16)]
    assert DemoSource(seed=1).read(0) != first.read(0)
    assert len({data for data, _ in forwards}) == 16


def test_more_pictures_leave_the_first_as_they_were() -> None:
    few, many = DemoSource(pictures=8), DemoSource(pictures=200)
    assert [few[index] for index in range(8)] == [many[index] for index in range(8)]
    assert few.read(7) == many.read(7)
    assert len({many[index].key for index in range(200)}) == 200


def test_between_them_they_cover_what_decodes() -> None:
    source = DemoSource()
    datas = [source.read(index)[0] for index in range(len(source))]
    pictures = [Pillow(orient=True, strict=True)(data) for data in datas]
    assert {Image.open(BytesIO(data)).format for data in datas} == {"JPEG", "PNG", "WEBP", "GIF"}
    notes = {note for picture in pictures for note in picture.notes}
    assert notes == {"16-bit", "alpha", "animated", "cmyk", "greyscale", "palette", "rotated"}
    sizes = [picture.image.size for picture in pictures]
    assert {BucketCrop().bucket_of(*size) for size in sizes} == set(ASPECT_BUCKETS)
    assert min(map(min, sizes)) >= 300
    assert max(map(max, sizes)) <= 900


def test_turned_pictures_are_upright_again() -> None:
    source = DemoSource()
    turned = source.read(5)[0]
    assert Image.open(BytesIO(turned)).size[0] > Image.open(BytesIO(turned)).size[1]
    upright = Pillow(orient=True, strict=True)(turned).image
    assert upright.size[0] < upright.size[1]


def test_items() -> None:
    source = DemoSource()
    assert len(source) == 24
    assert source[0].key == "demo_00_discs"
    for index in range(len(source)):
        item = source[index]
        assert item.label is not None
        assert item.key.endswith(source.classes[item.label])
    lengths = [len((source[index].caption or "").encode()) for index in range(24)]
    assert sorted(lengths)[-2] < 70
    assert max(lengths) > 300


def test_it_needs_no_torch() -> None:
    code = "import sys, latentkit.sources, latentkit.pixels; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UsageError, match="pictures=0"):
        DemoSource(pictures=0)
    with pytest.raises(UsageError, match="seed=-1"):
        DemoSource(seed=-1)
    with pytest.raises(IndexError):
        DemoSource(pictures=2).read(2)
