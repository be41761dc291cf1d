"""A miniature ILSVRC2012 with the true structure: 20 classes by 30 pictures, 3 a class for validation.

The training archive is a tar of class tars, the validation archive a flat tar, the devkit a gzipped tar with
meta.mat and the ground truth. ILSVRC2012_IDs are in another order than the wnids, higher synsets follow the
classes, and pictures stand in their tars in no order, as in the real ones.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from recipes import photo
from scipy.io import savemat

CLASSES, PER_CLASS, VAL_PER_CLASS = 20, 30, 3
WNIDS = [f"n{1440764 + 137 * position:08d}" for position in range(CLASSES)]
IDS = {
    wnid: int(number)
    for wnid, number in zip(WNIDS, np.random.default_rng(0).permutation(CLASSES) + 1, strict=True)
}
WORDS = {wnid: f"thing {position}, Res exempli {position}" for position, wnid in enumerate(WNIDS)}

CMYK, PNG, GREY = 3, 4, 5
"""Positions of the odd ones among the pictures of the first class."""


@dataclass(frozen=True)
class Miniature:
    """Where the archives are, and what is in them: name -> bytes."""

    folder: Path
    train: dict[str, dict[str, bytes]]
    val: dict[str, bytes]
    val_wnid: dict[str, str]

    @property
    def train_tar(self) -> Path:
        return self.folder / "ILSVRC2012_img_train.tar"

    @property
    def val_tar(self) -> Path:
        return self.folder / "ILSVRC2012_img_val.tar"

    @property
    def devkit(self) -> Path:
        return self.folder / "ILSVRC2012_devkit_t12.tar.gz"

    def files(self) -> dict[str, bytes]:
        """The extracted tree: path -> bytes."""
        train = {f"train/{wnid}/{name}": b for wnid, names in self.train.items() for name, b in names.items()}
        return train | {f"val/{self.val_wnid[name]}/{name}": b for name, b in self.val.items()}


def write_miniature(folder: Path) -> Miniature:
    """Write the three archives."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    train: dict[str, dict[str, bytes]] = {}
    for position, wnid in enumerate(WNIDS):
        numbers = rng.permutation(20000)[:PER_CLASS].tolist()
        train[wnid] = {
            f"{wnid}_{number}.JPEG": picture(100 * position + k, k if position == 0 else 0)
            for k, number in enumerate(numbers)
        }
    truth = rng.permutation(np.repeat(np.arange(1, CLASSES + 1), VAL_PER_CLASS)).tolist()
    val = {f"ILSVRC2012_val_{k:08d}.JPEG": picture(10_000 + k) for k in range(1, len(truth) + 1)}
    by_id = {number: wnid for wnid, number in IDS.items()}
    val_wnid = {name: by_id[number] for name, number in zip(val, truth, strict=True)}
    miniature = Miniature(folder, train, val, val_wnid)
    outer = {f"{wnid}.tar": tar_bytes(names) for wnid, names in train.items()}
    miniature.train_tar.write_bytes(tar_bytes(outer))
    shuffled = [list(val)[k] for k in rng.permutation(len(val)).tolist()]
    miniature.val_tar.write_bytes(tar_bytes({name: val[name] for name in shuffled}))
    write_devkit(miniature.devkit, truth)
    return miniature


def write_devkit(path: Path, truth: list[int]) -> None:
    """The devkit, whose synsets are the classes by ID and then those above them."""
    wnids = [wnid for wnid, _ in sorted(IDS.items(), key=lambda pair: pair[1])]
    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
        ("children", object),
        ("wordnet_height", object),
        ("num_train_images", object),
    ]
    rows = [(IDS[wnid], wnid, WORDS[wnid], "a thing", 0, np.array([]), 0, PER_CLASS) for wnid in wnids]
    above = [("n00001740", list(range(1, 11))), ("n00001930", list(range(11, CLASSES + 1)))]
    for k, (wnid, children) in enumerate(above, start=CLASSES + 1):
        rows.append((k, wnid, "things", "more things", len(children), np.array(children), 1, 0))
    synsets = np.zeros((len(rows), 1), dtype=kinds)
    for k, row in enumerate(rows):
        synsets[k, 0] = row
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    folder = "ILSVRC2012_devkit_t12"
    files = {
        f"{folder}/readme.txt": b"a development kit",
        f"{folder}/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{k}\n" for k in truth).encode(),
        f"{folder}/data/meta.mat": meta.getvalue(),
        f"{folder}/evaluation/demo_eval.m": b"% demo",
    }
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name in (folder, f"{folder}/data", f"{folder}/evaluation"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in files.items():
            add(tar, name, content)


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """A tar as GNU tar writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            add(tar, name, content)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.uname = len(content), 1339000000, "imagenet"
    tar.addfile(info, io.BytesIO(content))


def picture(seed: int, odd: int = 0) -> bytes:
    """An encoded picture of about 24 by 20; `odd` may be CMYK, PNG or GREY."""
    image = Image.fromarray(photo(seed, 20 + seed % 3, 24))
    file = io.BytesIO()
    if odd == PNG:
        image.save(file, "PNG")
    else:
        image.convert({CMYK: "CMYK", GREY: "L"}.get(odd, "RGB")).save(file, "JPEG")
    return file.getvalue()
