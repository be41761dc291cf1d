"""A photo library with outputs, made once, and a copy for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import library_tree
import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library_tree.build(tmp_path_factory.mktemp("made"))


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A fresh copy of ``work/data``: 12 photos, p05 in quarantine."""
    return Path(shutil.copytree(made, tmp_path / "work" / "data", symlinks=True))
