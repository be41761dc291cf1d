"""A folder to sync in, and a photo server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from photo_server import PhotoServer


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where the commands run: ``data/`` comes to lie in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    """Without photos yet."""
    with PhotoServer({}) as running:
        yield running
