"""What ImageNet's archives hold, as their headers say: class tars of pictures, or pictures.

The training archive is a tar of ``n01440764.tar`` ..., each a tar of ``n01440764_10026.JPEG`` ...; the
validation archive is a tar of ``ILSVRC2012_val_00000001.JPEG`` ... . Anything else in them is refused.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from latentkit.imagenet.tar import ForeignError, Member, Parser, next_member
from latentkit.sources.files import MAX_FILE_BYTES
from latentkit.sources.imagenet.names import SUFFIX, TRAIN_PICTURE, VAL_PICTURE, WNID

_CLASS_TAR = ".tar"
_MAX_NUMBER = 2**31


@dataclass
class Members:
    """The pictures of an archive in its own order; four columns of one length, and the classes.

    Attributes:
        wnids: of the class tars; empty for the validation archive.
        of_class: position in ``wnids``; 0 where there are none.
        number: the number in the name.
        offset, length: where the picture lies in the archive, bytes.
    """

    wnids: list[str] = field(default_factory=list)
    of_class: array[int] = field(default_factory=lambda: array("i"))
    number: array[int] = field(default_factory=lambda: array("i"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("i"))

    def add(self, number: int, member: Member) -> None:
        """A picture of the latest class."""
        self.of_class.append(max(len(self.wnids) - 1, 0))
        self.number.append(number)
        self.offset.append(member.offset)
        self.length.append(member.size)


def train_members(size: int) -> Parser[Members]:
    """Parse a training archive of so many bytes.

    Raises:
        TarError: it is cut or damaged; ForeignError: it holds anything but class tars of pictures, each once.
    """
    found = Members()
    archive = "the archive"
    outer = yield from next_member(0, size, archive)
    while outer is not None:
        wnid = outer.name.removesuffix(_CLASS_TAR)
        if not (outer.name.endswith(_CLASS_TAR) and WNID.fullmatch(wnid)):
            raise ForeignError(f"{archive} holds {outer.name}, which is no class of ImageNet")
        if wnid in found.wnids:
            raise ForeignError(f"{archive} holds {outer.name} twice")
        found.wnids.append(wnid)
        yield from _pictures(outer, found, lambda name, wnid=wnid: _train_number(name, wnid))  # type: ignore[misc]
        outer = yield from next_member(outer.next, size, archive)
    return found


def val_members(size: int) -> Parser[Members]:
    """Parse a validation archive of so many bytes.

    Raises:
        TarError: it is cut or damaged; ForeignError: it holds anything but validation pictures, each once.
    """
    found = Members()
    yield from _pictures(Member("the archive", 0, size, size), found, _val_number)
    return found


def _pictures(tar: Member, found: Members, number_of: Callable[[str], int | None]) -> Parser[None]:
    seen: set[int] = set()
    end = tar.offset + tar.size
    picture = yield from next_member(tar.offset, end, tar.name)
    while picture is not None:
        number = number_of(picture.name)
        if number is None or number >= _MAX_NUMBER:
            raise ForeignError(f"{tar.name} holds {picture.name}, which is no name of a picture there")
        if number in seen:
            raise ForeignError(f"{tar.name} holds {picture.name} twice")
        if picture.size > MAX_FILE_BYTES:
            raise ForeignError(
                f"{tar.name} holds {picture.name} of {picture.size:,} bytes, which is no picture"
            )
        seen.add(number)
        found.add(number, picture)
        picture = yield from next_member(picture.next, end, tar.name)


def _train_number(name: str, wnid: str) -> int | None:
    """10026 of n01440764_10026.JPEG; None when it is another name, or not the one way to write the number."""
    match = TRAIN_PICTURE.fullmatch(name)
    if match is None or match[1] != wnid or name != f"{wnid}_{int(match[2])}{SUFFIX}":
        return None
    return int(match[2])


def _val_number(name: str) -> int | None:
    match = VAL_PICTURE.fullmatch(name)
    return int(match[1]) if match else None
