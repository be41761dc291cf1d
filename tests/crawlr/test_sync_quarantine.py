"""Bytes that are no whole picture, and what becomes of them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

from photo_server import PhotoServer
from PIL import Image
from recipes import photo
from sync_runs import ledger, links, picture, pictures, raw, reasons, summary, sync


def saved(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002 - Pillow's word
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def flipped(data: bytes) -> bytes:
    """With the last quarter of its entropy data inverted."""
    start = len(data) * 3 // 4
    return data[:start] + bytes(byte ^ 0xA5 for byte in data[start:-2]) + data[-2:]


BAD = {
    "truncated": (picture(1)[:-200], "decode"),
    "damaged": (flipped(saved(Image.fromarray(photo(1, 200, 200)), "JPEG")), "decode"),
    "half-png": (picture(1, "PNG")[:-40], "decode"),
    "bomb": (bomb(), "decode"),
    "empty": (b"", "type"),
    "html": (b"\n<html lang=en><body>Not found</body></html>", "type"),
    "bmp": (saved(Image.new("RGB", (8, 8)), "BMP"), "type"),
}

IMAGE = Image.fromarray(photo(7, 24, 32))
GOOD = {
    "16-bit": (saved(Image.new("I;16", (8, 8), 40_000), "PNG"), "png"),
    "alpha": (saved(IMAGE.convert("RGBA"), "WEBP"), "webp"),
    "animated": (saved(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(180)]), "gif"),
    "cmyk": (saved(IMAGE.convert("CMYK"), "JPEG"), "jpg"),
    "turned": (
        saved(IMAGE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
        "jpg",
    ),
}


def test_each_kind_has_its_outcome_and_good_bytes_stay_as_they_are(server: PhotoServer, work: Path) -> None:
    server.photos |= {name: case[0] for name, case in (BAD | GOOD).items()}
    ended = sync(server, work)
    assert ended.returncode == 3, ended.stderr
    assert raw(work) == {name: data for name, (data, _) in sorted(GOOD.items())}
    assert links(work) == {f"{name}.{kind}": f"../raw/{name}" for name, (_, kind) in sorted(GOOD.items())}
    found = reasons(work)
    assert {name: why.partition(":")[0] for name, why in found.items()} == {
        name: stage for name, (_, stage) in BAD.items()
    }
    assert found["html"] == "type: an HTML page, no picture"
    assert found["empty"] == "type: empty file"
    assert "over the limit of 89,478,485 pixels" in found["bomb"]
    counts = summary(work)
    assert (counts["quarantined"], counts["unknown"], counts["failed"]) == (7, 3, 0)
    assert server.fetched() == dict.fromkeys(BAD, 2) | dict.fromkeys(GOOD, 1)


def test_a_quarantined_photo_waits_for_another_url_or_to_be_asked_for(
    server: PhotoServer, work: Path
) -> None:
    server.photos |= {"a": b"no picture", "b": b"no picture", "elsewhere": picture(1)}
    server.entries = [server.entry("a"), server.entry("b")]
    assert sync(server, work).returncode == 3
    time = [entry["quarantine"]["time"] for entry in ledger(work).values()]
    assert server.fetched() == {"a": 2, "b": 2}
    server.photos["a"] = picture(2)
    assert sync(server, work).returncode == 3
    assert server.fetched() == {"a": 2, "b": 2}
    assert time == [entry["quarantine"]["time"] for entry in ledger(work).values()]

    server.entries[1]["exportable_url"] = server.url("elsewhere")
    server.behaviours["/photo/elsewhere"] = lambda answer, number: answer.send(404)
    assert sync(server, work).returncode == 1
    server.behaviours.clear()
    assert sync(server, work).returncode == 3
    assert raw(work) == {"b": picture(1)}
    assert reasons(work).keys() == {"a"}

    assert sync(server, work, "retry_quarantined=true").returncode == 0
    assert raw(work) == {"a": picture(2), "b": picture(1)}
    assert not (work / "data/quarantine.jsonl").exists()
    assert "quarantine" not in ledger(work)["a"]


def test_a_file_that_is_there_is_decoded_and_only_a_bad_one_fetched_again(
    server: PhotoServer, work: Path
) -> None:
    folder = work / "data/raw"
    folder.mkdir(parents=True)
    server.photos |= pictures(3) | {"lost": b"no picture any more"}
    (folder / "p000").write_bytes(server.photos["p000"])
    (folder / "p001").write_bytes(server.photos["p001"][:-9])
    (folder / "p002").write_bytes(picture(42))
    (folder / "lost").write_bytes(b"broken on the disk")
    assert sync(server, work).returncode == 3
    assert server.fetched() == {"p001": 1, "lost": 1}
    expected = server.photos | {"p002": picture(42), "lost": b"broken on the disk"}
    assert raw(work) == expected, "what is whole is never replaced, nor what nothing better is known for"
    assert links(work) == {"p000.jpg": "../raw/p000", "p001.png": "../raw/p001", "p002.jpg": "../raw/p002"}
    assert sync(server, work).returncode == 3
    assert server.fetched() == {"p001": 1, "lost": 1}
    (folder / "lost").write_bytes(picture(5))
    assert sync(server, work).returncode == 0
    assert ledger(work)["lost"]["type"] == "jpg"


def test_a_changed_file_is_noticed_and_gets_the_link_of_its_type(server: PhotoServer, work: Path) -> None:
    server.photos |= pictures(4)
    assert sync(server, work).returncode == 0
    folder = work / "data/raw"
    (folder / "p000").write_bytes(picture(8, "PNG"))
    cut = folder / "p001"
    before = cut.stat()
    cut.write_bytes(cut.read_bytes()[:-30] + bytes(30))
    os.utime(folder / "p002")
    assert cut.stat().st_size == before.st_size
    assert sync(server, work).returncode == 0
    assert raw(work) == server.photos | {"p000": picture(8, "PNG")}
    assert links(work)["p000.png"] == "../raw/p000"
    assert "p000.jpg" not in links(work)
    assert server.fetched() == {"p000": 1, "p001": 2, "p002": 1, "p003": 1}
    assert (summary(work)["decoded"], summary(work)["downloaded"], summary(work)["present"]) == (2, 1, 1)
