"""Where every picture of an archive lies: a safetensors file with four columns, mapped and never loaded.

Rows are in the order of the keys: by class index, then by the picture's name. ``offset`` (int64) and
``length`` (int32) are bytes in the archive itself, ``label`` (int16) is the class index, ``number`` (int32)
the number in the picture's name. The metadata's field ``imagenet_index`` is JSON: ``split``, ``archive``,
``devkit``, ``classes``, ``class_names``. `latentkit.prepare` writes it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from latentkit.errors import LatentkitError, UsageError
from latentkit.sources.source import Stat

METADATA = "imagenet_index"
_ABOUT = ("split", "archive", "devkit", "classes", "class_names")

COLUMNS = {"offset": "<i8", "length": "<i4", "label": "<i2", "number": "<i4"}
_NAMES = {"<i8": "I64", "<i4": "I32", "<i2": "I16"}


@dataclass(frozen=True)
class IndexedArchive:
    """The archive that an index belongs to, as it was when it was read whole."""

    path: str
    size: int
    mtime_ns: int
    md5: str
    sha256: str

    @property
    def stat(self) -> Stat:
        return Stat(self.size, self.mtime_ns)


@dataclass(frozen=True)
class Index:
    """An index; `read_index` maps one, and `content` makes the file's bytes.

    Attributes:
        split: ``train`` or ``val``.
        archive: what it is an index of.
        devkit: sha256 of the devkit that labels and names are from; None where there was none.
        classes: wnids, sorted.
        class_names: of each class, such as ``tench, Tinca tinca``; empty without a devkit.
        offset, length, label, number: the columns, [N].
    """

    split: str
    archive: IndexedArchive
    devkit: str | None
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    number: np.ndarray

    def content(self) -> bytes:
        """The file, byte for byte."""
        about = {name: getattr(self, name) for name in _ABOUT} | {"archive": asdict(self.archive)}
        columns = {name: np.ascontiguousarray(getattr(self, name), dtype) for name, dtype in COLUMNS.items()}
        return save(columns, {METADATA: json.dumps(about)})


def read_index(path: Path) -> Index:
    """Map an index.

    Raises:
        UsageError: there is none.
        LatentkitError: it is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:  # checks that header and size fit
            about = json.loads(file.metadata()[METADATA])
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            tensors = json.loads(raw.read(length))
        about["archive"] = IndexedArchive(**about["archive"])
        about |= {name: tuple(about[name]) for name in ("classes", "class_names")}
        about |= {name: _mapped(path, dtype, tensors[name], 8 + length) for name, dtype in COLUMNS.items()}
        return Index(**about)
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: run python -m latentkit.prepare first "
            "(or give dataset=imagenet_tree for extracted folders)"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise LatentkitError(
            f"{path} is no index of ImageNet: {error}: remove it and run python -m latentkit.prepare"
        ) from None


def _mapped(path: Path, dtype: str, tensor: dict[str, Any], data: int) -> np.ndarray:
    shape = tensor["shape"]
    if tensor["dtype"] != _NAMES[dtype]:
        raise ValueError(f"a column of it is {tensor['dtype']} {shape}")
    if not shape[0]:
        raise ValueError("it has no picture")
    column = np.memmap(path, dtype, "r", data + tensor["data_offsets"][0], tuple(shape))
    return column.view(np.ndarray)  # the mapping stays; a memmap's own indexing is slow
