"""Every line of `decode`'s table of outcomes, on pictures made here."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from recipes import photo

from latentkit.pixels.decode import MAX_PIXELS, Picture, Pillow
from latentkit.pixels.header import DecodeError

NOTES = {
    *("16-bit", "alpha", "animated", "cmyk", "greyscale"),
    *("jpeg unchecked", "jpeg warnings", "palette", "rotated"),
}
"""Every word that `Picture.notes` may hold."""


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Nothing may warn: in a run, Python prints warnings between the user's lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def rgb(seed: int = 0, height: int = 173, width: int = 211) -> Image.Image:
    return Image.fromarray(photo(seed, height, width))


def strictly(data: bytes) -> Picture:
    return Pillow(orient=True, strict=True)(data)


def pillows(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


JPEG_VARIANTS: dict[str, dict[str, Any]] = {
    "baseline 4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": 0},
    "coarse": {"quality": 5},
    "fine": {"quality": 100},
    "restart markers": {"restart_marker_rows": 1},
    "stored as RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("variant", JPEG_VARIANTS)
@pytest.mark.parametrize("size", [(173, 211), (64, 64), (1, 1), (7, 130)])
def test_jpeg_pixels_equal_pillows(variant: str, size: tuple[int, int]) -> None:
    data = encoded(rgb(1, *size), "JPEG", **JPEG_VARIANTS[variant])
    picture = strictly(data)
    assert np.array_equal(picture.image, pillows(data))
    assert picture.image.mode == "RGB"
    assert picture.notes == ()


@pytest.mark.parametrize("size", [(173, 211), (9, 9)])
def test_grey_jpeg_equals_pillows(size: tuple[int, int]) -> None:
    data = encoded(rgb(2, *size).convert("L"), "JPEG")
    assert np.array_equal(strictly(data).image, pillows(data))
    assert strictly(data).notes == ("greyscale",)


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
@pytest.mark.parametrize("strict", [True, False])
def test_cmyk_jpeg_equals_pillows(transform: int, strict: bool) -> None:
    data = bytearray(encoded(rgb().convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = transform
    picture = Pillow(orient=True, strict=strict)(bytes(data))
    assert np.array_equal(picture.image, pillows(bytes(data)))
    assert picture.notes == ("cmyk",)


def test_truncated_cmyk_jpeg_is_refused() -> None:
    data = encoded(rgb().convert("CMYK"), "JPEG")
    with pytest.raises(DecodeError, match="damaged JPEG"):
        strictly(data[: len(data) // 2] + b"\xff\xd9")


WHOLE = {
    "jpeg": encoded(rgb(), "JPEG"),
    "progressive": encoded(rgb(), "JPEG", progressive=True),
    "png": encoded(rgb(), "PNG"),
    "webp": encoded(rgb(), "WEBP"),
    "lossless webp": encoded(rgb(3, 40, 60), "WEBP", lossless=True),
    "gif": encoded(rgb().quantize(32), "GIF"),
    "animated gif": encoded(rgb(), "GIF", save_all=True, append_images=[rgb(1), rgb(2)]),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("strict", [True, False])
def test_a_picture_cut_anywhere_is_refused(kind: str, strict: bool) -> None:
    data = WHOLE[kind]
    Pillow(orient=True, strict=strict)(data)
    cuts = {*range(1, 64), *range(64, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}
    for cut in sorted(cuts):
        with pytest.raises(DecodeError) as refusal:
            Pillow(orient=True, strict=strict)(data[:cut])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_tail_of_zeros_is_refused(kind: str, share: float) -> None:
    data = WHOLE[kind]
    keep = int(len(data) * share)
    with pytest.raises(DecodeError):
        strictly(data[:keep] + bytes(len(data) - keep))


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_entropy_data_that_ends_early_is_refused_or_counted(kind: str, share: float) -> None:
    data = WHOLE[kind]
    short = data[: int(len(data) * share)] + b"\xff\xd9"
    with pytest.raises(DecodeError, match="damaged JPEG: Corrupt JPEG data"):
        strictly(short)
    tolerated = Pillow(orient=True, strict=False)(short)
    assert tolerated.notes == ("jpeg warnings",)
    assert np.array_equal(tolerated.image, pillows(short))


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_impossible_huffman_codes_are_refused_or_counted(kind: str, share: float) -> None:
    broken = bytearray(WHOLE[kind])
    start = int(len(broken) * share)
    broken[start : start + 32] = b"\xff\x00" * 16  # stuffed: all ones, which is never a code
    with pytest.raises(DecodeError, match="damaged JPEG: Corrupt JPEG data"):
        strictly(bytes(broken))
    tolerated = Pillow(orient=True, strict=False)(bytes(broken))
    assert tolerated.notes == ("jpeg warnings",)
    assert np.array_equal(tolerated.image, pillows(bytes(broken)))


def test_every_bit_flip_in_a_png_is_refused() -> None:
    data = encoded(rgb(0, 40, 40), "PNG")
    rng = np.random.default_rng(1)
    for at in rng.integers(8, len(data) - 12, 200):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(DecodeError):
            strictly(bytes(flipped))


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_bytes_raise_nothing_but_decode_error(kind: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(150):
        broken = bytearray(WHOLE[kind])
        start = int(rng.integers(min(400, len(broken) - 8)))
        broken[start : start + 8] = rng.bytes(int(rng.integers(1, 9)))
        try:
            picture = Pillow(orient=True, strict=bool(rng.integers(2)))(bytes(broken))
        except DecodeError:
            continue
        assert picture.image.mode == "RGB"
        assert set(picture.notes) <= NOTES


def test_what_is_no_picture_is_named() -> None:
    with pytest.raises(DecodeError, match=r"^empty file$"):
        strictly(b"")
    with pytest.raises(DecodeError, match=r"not a JPEG, PNG, WebP or GIF \(starts with '<html>"):
        strictly(b"<html>\n<body>404 Not Found</body></html>")
    with pytest.raises(DecodeError, match=r"starts with 'BM"):
        strictly(encoded(rgb(), "BMP"))


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def claim(kind: str, width: int, height: int) -> bytes:
    """A whole small picture whose header claims another size."""
    if kind == "png":
        return png(width, height, 8, 2, bytes(9))
    if kind == "gif screen":
        small = bytearray(encoded(Image.new("L", (2, 2)), "GIF"))
        small[6:10] = struct.pack("<HH", width, height)
    elif kind == "gif frame":
        small = bytearray(encoded(Image.new("L", (2, 2)), "GIF"))
        frame = small.rindex(b"\x2c\0\0\0\0") + 5
        small[frame : frame + 4] = struct.pack("<HH", width, height)
    elif kind == "jpeg":
        small = bytearray(encoded(Image.new("L", (2, 2)), "JPEG"))
        frame = small.index(b"\xff\xc0") + 5
        small[frame : frame + 4] = struct.pack(">HH", height, width)
    else:
        small = bytearray(encoded(Image.new("RGBA", (2, 2)), "WEBP", exif=b"II*\0"))
        assert small[12:16] == b"VP8X"
        small[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(small)


@pytest.mark.parametrize("kind", ["png", "gif screen", "gif frame", "jpeg", "webp"])
@pytest.mark.parametrize("side", [12_000, 16_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(kind: str, side: int) -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DecodeError, match=f"claims {side}x{side} pixels: over the limit of"):
        strictly(claim(kind, side, side))
    assert before == Image.MAX_IMAGE_PIXELS
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_the_limit_is_where_pillow_is_still_silent() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Image.MAX_IMAGE_PIXELS >= MAX_PIXELS


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_without_pixels_is_refused(kind: str) -> None:
    with pytest.raises(DecodeError, match="claims 0x5 pixels"):
        strictly(claim(kind, 0, 5))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_exif_orientations_turn_as_image_ops_does(orientation: int, format_: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker's name, long enough to be stored outside of the directory"
    data = encoded(rgb(4, 30, 52), format_, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    turned = strictly(data)
    assert np.array_equal(turned.image, expected)
    assert turned.notes == (("rotated",) if orientation > 1 else ())
    stored = Pillow(orient=False, strict=True)(data)
    assert np.array_equal(stored.image, pillows(data))
    assert stored.notes == ()


def test_big_endian_exif_in_cmyk_is_read() -> None:
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    picture = strictly(encoded(rgb(4, 30, 52).convert("CMYK"), "JPEG", exif=exif))
    assert picture.image.size == (30, 52)
    assert picture.notes == ("cmyk", "rotated")


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 40_000),
        b"Exif\0\0XX*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0),
        b"Exif\0\0II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 9, 0),
        b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x011A, 5, 1, 99_999),
    ],
    ids=["empty", "cut", "far offset", "many entries", "byte order", "orientation 9", "far rational"],
)
def test_damaged_exif_is_ignored(exif: bytes, mode: str) -> None:
    data = encoded(rgb(4, 30, 52).convert(mode), "JPEG", exif=exif)
    assert strictly(data).image.size == (52, 30)
    assert "rotated" not in strictly(data).notes


@pytest.mark.parametrize("strict", [True, False])
def test_warnings_of_damaged_exif_do_not_leak_from_a_damaged_jpeg(strict: bool) -> None:
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x011A, 5, 1, 99_999)
    data = encoded(rgb(), "JPEG", exif=exif)
    short = data[: len(data) // 2] + b"\xff\xd9"
    if strict:
        with pytest.raises(DecodeError, match="Corrupt JPEG data"):
            Pillow(orient=True, strict=True)(short)
    else:
        assert Pillow(orient=True, strict=False)(short).notes == ("jpeg warnings",)


def test_grey_16_bit_is_scaled_not_clipped() -> None:
    levels = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    picture = strictly(encoded(Image.fromarray(levels), "PNG"))
    expected = np.rint(levels / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(picture.image), np.repeat(expected[..., None], 3, axis=2))
    assert picture.notes == ("16-bit", "greyscale")


def test_grey_16_bit_with_a_transparent_level_goes_over_white() -> None:
    rows = b"\0" + struct.pack(">3H", 1000, 30_000, 65_535)
    picture = strictly(png(3, 1, 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 1000))))
    assert np.asarray(picture.image)[0, :, 0].tolist() == [255, 117, 255]
    assert picture.notes == ("16-bit", "alpha", "greyscale")


@pytest.mark.parametrize("alpha", [False, True])
def test_colour_16_bit_is_within_a_level(alpha: bool) -> None:
    channels = 4 if alpha else 3
    levels = np.random.default_rng(0).integers(0, 65536, (9, 7, channels)).astype(">u2")
    if alpha:
        levels[..., 3] = 65_535
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    picture = strictly(png(7, 9, 16, 6 if alpha else 2, rows))
    assert np.abs(np.asarray(picture.image).astype(float) - levels[..., :3] / 257).max() <= 1
    assert picture.notes == ("16-bit",)


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(float) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_alpha_goes_over_white(format_: str) -> None:
    rgba = np.dstack([photo(5, 40, 50), photo(6, 40, 50)[..., 0]])
    picture = strictly(encoded(Image.fromarray(rgba), format_, **({"lossless": True, "exact": True})))
    assert np.abs(np.asarray(picture.image) - over_white(rgba)).max() <= 1
    assert picture.notes == ("alpha",)


def test_alpha_that_hides_nothing_is_not_counted() -> None:
    rgba = rgb()
    rgba.putalpha(255)
    picture = strictly(encoded(rgba, "PNG"))
    assert np.array_equal(picture.image, rgb())
    assert picture.notes == ()


def test_grey_with_alpha_goes_over_white() -> None:
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (0, 0))
    picture = strictly(encoded(image, "PNG"))
    assert np.asarray(picture.image).tolist() == [[[100] * 3, [255] * 3]]
    assert picture.notes == ("alpha", "greyscale")


def test_palette_with_alpha_goes_over_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 0, 0])
    image.putdata([0, 1, 2])
    picture = strictly(encoded(image, "PNG", transparency=bytes([255, 128, 0])))
    assert np.asarray(picture.image).tolist() == [[[255, 0, 0], [127, 127, 255], [255, 255, 255]]]
    assert picture.notes == ("alpha", "palette")


def test_a_transparent_colour_goes_over_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    picture = strictly(encoded(image, "PNG", transparency=(1, 2, 3)))
    assert np.asarray(picture.image).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert picture.notes == ("alpha",)


def test_plain_palette_and_bilevel() -> None:
    image = rgb().quantize(16)
    assert np.array_equal(strictly(encoded(image, "PNG")).image, image.convert("RGB"))
    assert strictly(encoded(image, "PNG")).notes == ("palette",)
    bilevel = rgb().convert("1")
    assert np.array_equal(strictly(encoded(bilevel, "PNG")).image, bilevel.convert("RGB"))
    assert strictly(encoded(bilevel, "PNG")).notes == ("greyscale",)


@pytest.mark.parametrize(("format_", "options"), [("WEBP", {"lossless": True}), ("PNG", {}), ("GIF", {})])
def test_of_an_animation_the_first_frame_is_taken(format_: str, options: dict[str, Any]) -> None:
    frames = [rgb(seed).quantize(32).convert("RGB") for seed in range(3)]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    picture = strictly(data)
    assert np.array_equal(picture.image, frames[0])
    assert "animated" in picture.notes


def test_a_file_of_one_frame_is_no_animation() -> None:
    for kind in ("gif", "webp", "png"):
        assert "animated" not in strictly(WHOLE[kind]).notes


def test_the_first_picture_of_an_mpo_is_taken() -> None:
    data = encoded(rgb(), "MPO", save_all=True, append_images=[rgb(1)])
    assert np.array_equal(strictly(data).image, pillows(encoded(rgb(), "JPEG")))


def test_a_damaged_animation_header_is_refused_without_a_warning() -> None:
    with pytest.raises(DecodeError, match="claims 0 frames"):
        strictly(png(1, 1, 8, 2, bytes(4), png_chunk(b"acTL", struct.pack(">II", 0, 0))))


def test_a_chroma_sampling_that_cannot_be_checked_is_counted() -> None:
    data = bytearray(encoded(Image.new("RGB", (24, 8), (200, 30, 60)), "JPEG", subsampling=0))
    data[data.index(b"\xff\xc0") + 11] = 0x31  # luma 3x1: a sampling that TurboJPEG has no name for
    picture = strictly(bytes(data))
    assert picture.notes == ("jpeg unchecked",)
    assert np.array_equal(picture.image, pillows(bytes(data)))
