"""Archives of a miniature ILSVRC2012, and figures by which they are the official ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from miniature_imagenet import Miniature, write_miniature
from miniature_preparation import digest

from latentkit.sources.imagenet.official import Official


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return write_miniature(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def miniature(pristine: Miniature, tmp_path: Path) -> Miniature:
    """A copy that a test may change."""
    folder = tmp_path / "data"
    shutil.copytree(pristine.folder, folder)
    return Miniature(folder, pristine.train, pristine.val, pristine.val_wnid)


@pytest.fixture
def official(pristine: Miniature) -> dict[str, Official]:
    """What the archives would have to be if the miniature were the real thing."""
    facts = {
        "train": (pristine.train_tar, 20, 600),
        "val": (pristine.val_tar, 20, 60),
        "devkit": (pristine.devkit, None, None),
    }
    return {
        role: Official(path.name, digest(path), path.stat().st_size, classes, pictures)
        for role, (path, classes, pictures) in facts.items()
    }
