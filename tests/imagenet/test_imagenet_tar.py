"""The tar parsers: what Python's own tarfile finds in good archives, and a refusal of all others."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from miniature_imagenet import WNIDS, Miniature, add, tar_bytes

from latentkit.imagenet.contents import Contents, train_contents, val_contents
from latentkit.imagenet.reading import CHUNK, CutError, ForeignError, TarError, members, read_archive


def parsed(content: bytes, parse=train_contents) -> Contents:
    """What is found, by blocks that are whole and each further on than the last."""
    last = -1

    def block(at: int) -> bytes:
        nonlocal last
        assert at > last
        assert at % 512 == 0
        assert at + 512 <= len(content)
        last = at
        return content[at : at + 512]

    return parse(block, len(content))


def rows(found: Contents) -> list[tuple[str, int, int, int]]:
    numbers = np.reshape(found.numbers, (-1, 4)).tolist()
    return [(found.wnids[k] if found.wnids else "", *others) for k, *others in numbers]


def test_offsets_are_those_of_the_pictures_in_the_outer_file(pristine: Miniature) -> None:
    content = pristine.train_tar.read_bytes()
    expected = []
    with tarfile.open(pristine.train_tar) as outer:
        for class_tar in outer:
            with tarfile.open(fileobj=outer.extractfile(class_tar)) as inner:
                for member in inner:
                    number = int(member.name.split("_")[1].removesuffix(".JPEG"))
                    offset = class_tar.offset_data + member.offset_data
                    expected.append((class_tar.name[:9], number, offset, member.size))
    assert len(expected) == 600
    assert rows(parsed(content)) == expected
    for wnid, number, offset, length in expected[::50]:
        assert content[offset : offset + length] == pristine.train[wnid][f"{wnid}_{number}.JPEG"]
    with tarfile.open(pristine.val_tar) as tar:
        expected = [("", int(m.name[15:23]), m.offset_data, m.size) for m in tar]
    assert rows(parsed(pristine.val_tar.read_bytes(), val_contents)) == expected


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_tars_of_every_format(kind: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        add(tar, "ILSVRC2012_val_00000007.JPEG", b"x" * 512)
        add(tar, "ILSVRC2012_val_00000003.JPEG", b"")
    assert rows(parsed(file.getvalue(), val_contents)) == [("", 7, 512, 512), ("", 3, 1536, 0)]


def test_one_pass_gives_hashes_and_members_however_long_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = {f"ILSVRC2012_val_{k:08d}.JPEG": rng.bytes(CHUNK // 3 + 1000 * k) for k in range(1, 20)}
    path = tmp_path / "val.tar"
    path.write_bytes(tar_bytes(names))
    read = []
    file, found = read_archive(path, val_contents, read.append)
    content = path.read_bytes()
    assert read == sorted(read)
    assert read[-1] == len(content)
    assert len(read) > 5
    assert file.md5 == hashlib.md5(content).hexdigest()
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert [content[o : o + n] for _, _, o, n in rows(found)] == list(names.values())


def cuts(content: bytes) -> dict[str, int]:
    """Where a training archive may be cut, of every kind."""
    offsets = [offset for _, _, offset, _ in rows(parsed(content))]
    first, later = offsets[0], offsets[31]
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        second = tar.getmembers()[1].offset
        end = tar.getmembers()[-1]
    after = end.offset_data + end.size
    return {
        "nothing": 0,
        "in the first header": 300,
        "after the first header": 512,
        "in a picture's header": first - 200,
        "in a picture": first + 10,
        "between pictures": offsets[1] - 512,
        "between classes": second,
        "in a later picture": later + 100,
        "before the end blocks": after,
        "within the end blocks": after + 512,
    }


def test_cut_anywhere(pristine: Miniature) -> None:
    content = pristine.train_tar.read_bytes()
    for length in cuts(content).values():
        with pytest.raises(CutError, match="ends at byte"):
            parsed(content[:length])


def test_a_class_tar_that_was_cut_before_it_was_packed() -> None:
    whole = tar_bytes({f"{WNIDS[0]}_1.JPEG": b"x" * 600})
    for length in (512, 1536, 2000):
        with pytest.raises(CutError, match=f"{WNIDS[0]}.tar ends at byte"):
            parsed(tar_bytes({f"{WNIDS[0]}.tar": whole[:length]}))


def special(kind: bytes, name: str = f"{WNIDS[0]}_2.JPEG", link: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, f"{WNIDS[0]}_1.JPEG", b"picture")
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    return file.getvalue()


SPECIAL = {
    "a hard link": special(tarfile.LNKTYPE, link="../../etc/passwd"),
    "a symbolic link": special(tarfile.SYMTYPE, link="/etc/passwd"),
    "a character device": special(tarfile.CHRTYPE),
    "a block device": special(tarfile.BLKTYPE),
    "a folder": special(tarfile.DIRTYPE),
    "a FIFO": special(tarfile.FIFOTYPE),
    "a sparse file": special(tarfile.GNUTYPE_SPARSE),
    "of the unknown kind b'7'": special(tarfile.CONTTYPE),
    "a GNU long name": special(tarfile.REGTYPE, "x" * 120),
}


@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_no_plain_file_is_refused_by_name(what: str) -> None:
    with pytest.raises(ForeignError) as refused:
        parsed(tar_bytes({f"{WNIDS[0]}.tar": SPECIAL[what]}))
    assert what in str(refused.value)
    assert f"{WNIDS[0]}_2.JPEG" in str(refused.value) or "LongLink" in str(refused.value)


def with_pax(records: dict[str, str], *, globally: bool = False) -> bytes:
    """A validation picture behind a PAX header."""
    file = io.BytesIO()
    everywhere = records if globally else {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=everywhere) as tar:
        info = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
        info.size = 7
        info.pax_headers = {} if globally else records
        tar.addfile(info, io.BytesIO(b"picture"))
    return file.getvalue()


@pytest.mark.parametrize("globally", [False, True])
@pytest.mark.parametrize("key", ["path", "linkpath", "size", "GNU.sparse.major", "GNU.sparse.name"])
def test_pax_headers_that_rename_or_resize_are_refused(key: str, globally: bool) -> None:
    with pytest.raises(ForeignError, match=f"a PAX header that sets {key}"):
        parsed(with_pax({"comment": "harmless", key: "1"}, globally=globally), val_contents)


def test_pax_headers_that_nobody_could_read() -> None:
    good = with_pax({"comment": "x" * 700, "mtime": "1.5"})
    assert rows(parsed(good, val_contents)) == [("", 1, 2048, 7)]
    for length in (513, 1024, 2047):
        with pytest.raises(CutError, match="ends at byte"):
            parsed(good[:length], val_contents)
    at = good.index(b" comment=") - 3
    for damage in (b"000", b"999", b"9 x", b"x11", b" 11"):
        with pytest.raises(TarError, match=r"has a damaged PAX header at byte 512|sets"):
            parsed(good[:at] + damage + good[at + 3 :], val_contents)
    with pytest.raises(ForeignError, match=r"a PAX header of 70,0\d\d bytes"):
        parsed(with_pax({"comment": "x" * 70_000}), val_contents)


NAMES = [
    "../n01440764_1.JPEG",
    "/n01440764_1.JPEG",
    "n01440764/n01440764_1.JPEG",
    "n01443537_1.JPEG",  # of another class
    "n01440764_1.jpeg",
    "n01440764_01.JPEG",  # the same number as n01440764_1
    "n01440764_1.JPEG\n",
    "n01440764_99999999999.JPEG",
    "ILSVRC2012_val_00000001.JPEG",
    "n01440764_١.JPEG",
]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_refused_whatever_else_is_there(name: str) -> None:
    content = tar_bytes({"n01440764_7.JPEG": b"picture", name: b"picture"})
    with pytest.raises(ForeignError, match=r"n01440764\.tar holds .* no name of a picture"):
        parsed(tar_bytes({"n01440764.tar": content}))


def test_names_of_the_outer_archives() -> None:
    inner = tar_bytes({"n01440764_7.JPEG": b"picture"})
    for name in ("../n01440764.tar", "n01440764.tar.gz", "n0144076.tar", "val/n01440764.tar", "README"):
        with pytest.raises(ForeignError, match="which is no class of ImageNet"):
            parsed(tar_bytes({name: inner}))
    for name in (
        "val/ILSVRC2012_val_00000001.JPEG",
        "ILSVRC2012_val_1.JPEG",
        "ILSVRC2012_test_00000001.JPEG",
    ):
        with pytest.raises(ForeignError, match="no name of a picture"):
            parsed(tar_bytes({name: b""}), val_contents)


def doubled(members: dict[str, bytes]) -> bytes:
    """A tar that holds its members twice."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in [*members.items(), *members.items()]:
            add(tar, name, content)
    return file.getvalue()


def test_duplicates_are_refused() -> None:
    inner = {"n01440764_7.JPEG": b"picture"}
    with pytest.raises(ForeignError, match=r"holds n01440764\.tar twice"):
        parsed(doubled({"n01440764.tar": tar_bytes(inner)}))
    with pytest.raises(ForeignError, match=r"holds n01440764_7\.JPEG twice"):
        parsed(tar_bytes({"n01440764.tar": doubled(inner)}))
    with pytest.raises(ForeignError, match=r"00000001\.JPEG twice"):
        parsed(doubled({"ILSVRC2012_val_00000001.JPEG": b""}), val_contents)


def test_a_flipped_bit_in_any_field_of_a_header_is_noticed() -> None:
    content = bytearray(tar_bytes({"ILSVRC2012_val_00000001.JPEG": b"picture"}))
    for at in (0, 20, 99, 100, 124, 130, 150, 156, 257, 300, 400, 511):
        damaged = bytearray(content)
        damaged[at] ^= 4
        with pytest.raises(TarError, match="no tar header at byte 0"):
            parsed(bytes(damaged), val_contents)


def test_ends() -> None:
    content = tar_bytes({"ILSVRC2012_val_00000001.JPEG": b"picture"})
    with pytest.raises(TarError, match="a block of zeros among its members"):
        parsed(bytes(512) + content, val_contents)
    with pytest.raises(TarError, match="goes on after its end"):
        parsed(content + bytes(2**20), val_contents)
    header = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
    header.size = 2**31
    with pytest.raises(ForeignError, match="bytes, which is no picture"):
        val_contents(lambda at: header.tobuf(tarfile.GNU_FORMAT), 2**32)


def test_a_negative_size_is_no_header_and_leads_nowhere_back() -> None:
    """In base 256, as GNU tar writes large numbers, the size has a sign."""
    content = tar_bytes({"ILSVRC2012_val_00000001.JPEG": b"picture"})
    for size in (-1, -512, -1024):
        header = bytearray(content[:512])
        header[124:136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        with pytest.raises(TarError, match="no tar header at byte 0"):
            list(members(lambda at, header=bytes(header): header, 0, 2**20, "it"))
