"""What a picture's bytes say before any pixel is allocated: format, size, depth, frames, orientation.

Each container is walked to its end marker, so that a file cut short is noticed here by its structure,
whatever the pixel decoder would make of it. Formats:

- JPEG: ITU-T T.81, annex B (markers); Exif 2.32 in APP1.
- PNG: W3C Portable Network Graphics, third edition (chunks, ``acTL``, ``eXIf``).
- WebP: RFC 9649 (RIFF chunks).
- GIF: GIF89a specification (blocks).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DecodeError(ValueError):
    """A picture cannot become right pixels; the text is one line: the reason for the quarantine ledger."""


@dataclass(frozen=True, slots=True)
class Header:
    """A picture as its container describes it.

    Attributes:
        format: ``JPEG``, ``PNG``, ``WEBP`` or ``GIF``, as Pillow names them.
        width, height: of the stored picture in pixels, before orientation; both at least 1.
        bits: bits of a sample, 1 to 16.
        components: channels of a JPEG (1 grey, 3 colour, 4 CMYK or YCCK); 0 for the other formats.
        animated: the file holds more than one frame.
        orientation: EXIF orientation, 1 to 8; 1 when absent or damaged.
    """

    format: str
    width: int
    height: int
    bits: int = 8
    components: int = 0
    animated: bool = False
    orientation: int = 1


def read_header(data: bytes) -> Header:
    """Read a picture's header and check that its container is complete.

    Raises:
        DecodeError: empty, of another format, cut short, or with a width or height of 0.
    """
    if not data:
        raise DecodeError("empty file")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith(PNG_SIGNATURE):
            header = _png(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            header = _gif(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            raise DecodeError(f"not a JPEG, PNG, WebP or GIF (starts with {_beginning(data)})")
    except (struct.error, IndexError):
        raise DecodeError(f"truncated in its header ({len(data)} bytes)") from None
    if header.width < 1 or header.height < 1:
        raise DecodeError(f"the {header.format} header claims {header.width}x{header.height} pixels")
    return header


def exif_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory of an EXIF block (with or without its ``Exif`` prefix).

    Returns:
        1 to 8; 1 for a block that is damaged, lacks the tag, or gives it an impossible value.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, entry)
            if tag == 0x0112 and kind in (3, 4) and count == 1:  # SHORT or LONG
                (value,) = struct.unpack_from(order + "HI"[kind - 3], tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def without_exif(jpeg: bytes) -> bytes:
    """The same JPEG with its EXIF segments marked as comments: the pixels stay, nobody parses them."""
    edited = bytearray(jpeg)
    for marker, start, end in _jpeg_segments(jpeg):
        if marker == 0xE1 and jpeg[start:end].startswith(b"Exif"):
            edited[start - 3] = 0xFE
    return bytes(edited)


def _beginning(data: bytes) -> str:
    return ascii(data[:24].decode("latin-1")) + ("..." if len(data) > 24 else "")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end of the payload) of each segment before the first scan or the end of the data."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0xD9, 0xDA):
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # stuffing, and markers without a payload
            at += 2
        elif marker == 0xFF:  # fill
            at += 1
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            yield marker, at + 4, at + 2 + length
            at += 2 + max(length, 2)


def _jpeg(data: bytes) -> Header:
    orientation = None
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE1 and orientation is None and data[start : start + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[start:end])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", data, start)
            return Header("JPEG", width, height, bits, components, orientation=orientation or 1)
    raise DecodeError(f"truncated JPEG: no frame header in {len(data)} bytes")


def _png(data: bytes) -> Header:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    if data[12:16] != b"IHDR":
        raise DecodeError("damaged PNG: its first chunk is not IHDR")
    frames, orientation, at = None, 1, len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return Header("PNG", width, height, bits, animated=(frames or 1) > 1, orientation=orientation)
        if kind == b"acTL":
            if frames is not None:
                raise DecodeError("damaged PNG: two animation headers")
            (frames,) = struct.unpack_from(">I", data, at + 8)
            if not 1 <= frames <= 0x7FFFFFFF:
                raise DecodeError(f"damaged PNG: its animation header claims {frames} frames")
        elif kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : at + 8 + length])
        at += 12 + length
    raise DecodeError(f"truncated PNG: no IEND chunk in {len(data)} bytes")


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data):
        raise DecodeError(f"truncated WebP: {len(data)} of {end} bytes")
    kind, payload = data[12:16], 20
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[payload + 4 : payload + 7], "little")
        height = 1 + int.from_bytes(data[payload + 7 : payload + 10], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, payload + 1)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, payload + 6))
    else:
        raise DecodeError(f"damaged WebP: its first chunk is {_beginning(kind)}")
    frames, orientation, at = 0, 1, 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = exif_orientation(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return Header("WEBP", width, height, animated=frames > 1, orientation=orientation)


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _gif_palette(flags), 0
    while at < len(data):
        block = data[at]
        if block == 0x3B:
            if not frames:
                raise DecodeError("a GIF without a picture")
            return Header("GIF", width, height, animated=frames > 1)
        if block == 0x2C:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            if frames == 0:  # decoders widen the screen to hold the first frame
                width, height = max(width, left + wide), max(height, top + high)
            frames += 1
            at += 11 + _gif_palette(flags)
        elif block == 0x21:
            at += 2
        else:
            raise DecodeError(f"damaged GIF: unknown block 0x{block:02x} at byte {at}")
        while data[at]:
            at += 1 + data[at]
        at += 1
    raise DecodeError(f"truncated GIF: no trailer in {len(data)} bytes")


def _gif_palette(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
