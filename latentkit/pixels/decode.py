"""Bytes to right 8-bit RGB, or a reason. There is no third way: never grey where a picture was."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from latentkit.errors import one_line
from latentkit.pixels.header import DecodeError, Header, read_header, without_exif

MAX_PIXELS = 89_478_485
"""Largest width * height that is decoded (256 MiB of RGB); below it Pillow's own bomb check is silent."""

_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
_CONVERSIONS = dict.fromkeys(("1", "L", "LA", "I", "I;16"), "greyscale") | {"P": "palette", "CMYK": "cmyk"}


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: RGB, uint8 [H, W, 3], upright when orientation was asked for.
        notes: what had to be converted, in the words of the table at `Pillow`, sorted; empty for a plain RGB
            picture.
        format: what the bytes are: ``JPEG``, ``PNG``, ``WEBP`` or ``GIF``.
    """

    pixels: np.ndarray
    notes: tuple[str, ...]
    format: str

    @property
    def image(self) -> Image.Image:
        """The pixels as Pillow has them, mode RGB."""
        return Image.fromarray(self.pixels)


@dataclass(frozen=True)
class Pillow:
    """The image decoder ``pillow``: a whole JPEG (first picture of an MPO), PNG, WebP or GIF, whatever its
    file was called.

    ==============================  ==================================================================
    bytes                           outcome
    ==============================  ==================================================================
    zero bytes, another format      DecodeError
    over `MAX_PIXELS` claimed       DecodeError, before a pixel is allocated
    truncated                       DecodeError, by the container or by the decoder
    JPEG, libjpeg had to guess      ``strict``: DecodeError. Otherwise decoded as Pillow does, noted
      (bad Huffman code, data         ``jpeg warnings``; a JPEG that ends early is refused all the same
      lost, stray bytes)
    JPEG, exotic chroma sampling    decoded by Pillow, which reports no warnings: ``jpeg unchecked``
    PNG, damaged                    DecodeError (checksums)
    GIF or WebP, damaged            DecodeError where the decoder notices; neither has checksums
    greyscale                       repeated into three channels; ``greyscale``
    CMYK, YCCK                      Pillow's conversion, without colour management; ``cmyk``
    16-bit greyscale                rint(v / 257); ``16-bit``, ``greyscale``
    16-bit colour                   the high byte (within one level of v / 257); ``16-bit``
    palette                         its colours; ``palette``
    transparency in any form        composited over white; ``alpha``, unless it is opaque everywhere
    animated GIF, PNG or WebP       the first frame; ``animated``
    EXIF orientation 2 to 8         ``orient``: turned upright, ``rotated``. Otherwise left as stored
    damaged EXIF                    ignored
    colour profile                  ignored, as the trainers of the published models did
    ==============================  ==================================================================

    No decoder can notice some damage: a flipped bit in JPEG entropy data after which the codes fall into
    step again (four flips in five), a run of zeros there that ends in step, a progressive JPEG from which
    whole scans were removed, bytes changed in a WebP or GIF that still decode (so a WebP whose tail was
    overwritten with zeros, its size kept, passes). A checksum of the file is the only guard against those.

    JPEGs go through libjpeg-turbo by way of simplejpeg, because it reports libjpeg's warnings; the
    pixels equal Pillow's bit for bit. Neither Pillow's nor Python's global state is touched.

    Attributes:
        orient: apply EXIF orientation.
        strict: refuse a JPEG that libjpeg had to guess at.
    """

    orient: bool
    strict: bool

    def describe(self) -> dict[str, Any]:
        """JSON values for an encoding contract: all that changes the pixels."""
        return {
            "orientation": "exif" if self.orient else "ignored",
            "decoder": "pillow",
            "damaged_jpeg": "refused" if self.strict else "decoded",
        }

    def __call__(self, data: bytes) -> Picture:
        """Decode a file's bytes.

        Raises:
            DecodeError: one line that says what is wrong.
        """
        header = read_header(data)
        if header.width * header.height > MAX_PIXELS:
            raise DecodeError(
                f"the {header.format} header claims {header.width}x{header.height} pixels: "
                f"over the limit of {MAX_PIXELS:,} pixels"
            )
        jpeg = header.format == "JPEG"
        image, notes = _jpeg(data, header, self.strict) if jpeg else _to_rgb(_load(data, header), header)
        pixels = np.asarray(image)
        if header.animated:
            notes.add("animated")
        if self.orient and header.orientation > 1:
            pixels = _upright(pixels, header.orientation)
            notes.add("rotated")
        return Picture(pixels, tuple(sorted(notes)), header.format)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A picture of EXIF orientation 2 to 8, as its camera was held: transposed, then flipped."""
    turned = pixels.transpose(1, 0, 2) if orientation > 4 else pixels
    rows, columns = (-1 if orientation in flipped else 1 for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(turned[::rows, ::columns])


def _jpeg(data: bytes, header: Header, strict: bool) -> tuple[Image.Image | np.ndarray, set[str]]:
    cmyk = header.components == 4
    notes: set[str] = set()
    try:
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if cmyk else "RGB", strict=True)
    except ValueError as error:
        # The TurboJPEG interface names seven samplings, libjpeg takes all.
        if "subsampling level" in str(error):
            notes.add("jpeg unchecked")
        elif strict:
            raise DecodeError(f"damaged JPEG: {one_line(error)}") from None
        else:
            notes.add("jpeg warnings")
    else:
        if not cmyk:
            return pixels, {"greyscale"} if header.components == 1 else set()
    image, conversions = _to_rgb(_load(without_exif(data), header), header)
    return image, conversions | notes


def _load(data: bytes, header: Header) -> Image.Image:
    """Pillow's pixels, in the mode that it gives them. The plugin is called directly: no format guessing."""
    try:
        image = _OPENERS[header.format](io.BytesIO(data))
        if image.size != (header.width, header.height):
            raise ValueError(f"its header says {header.width}x{header.height}, its data {image.size}")
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on hostile bytes
        raise DecodeError(f"damaged {header.format}: {one_line(error)}") from None
    return image


def _to_rgb(image: Image.Image, header: Header) -> tuple[Image.Image, set[str]]:
    """8-bit RGB of a loaded picture in any mode of the four formats, and the notes for it."""
    notes = {"16-bit"} if header.bits == 16 else set()
    if conversion := _CONVERSIONS.get(image.mode):
        notes.add(conversion)
    if image.mode in ("I;16", "I"):
        return _from_grey16(image, notes)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        key = image.info.get("transparency")
        if header.bits == 16 and isinstance(key, tuple):
            image.info["transparency"] = tuple(level >> 8 for level in key)
        rgba = image.convert("RGBA")
        lowest, _ = rgba.getchannel("A").getextrema()
        if lowest != 255:
            notes.add("alpha")
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return rgba.convert("RGB"), notes
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _from_grey16(image: Image.Image, notes: set[str]) -> tuple[Image.Image, set[str]]:
    levels = np.asarray(image).astype(np.uint32)
    grey = ((levels + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int) and (levels == key).any():
        grey[levels == key] = 255
        notes.add("alpha")
    return Image.fromarray(grey).convert("RGB"), notes
