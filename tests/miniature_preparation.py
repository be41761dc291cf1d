"""Prepares the miniature in this process."""

from __future__ import annotations

import hashlib
from pathlib import Path

from miniature_imagenet import Miniature
from rich.console import Console

from latentkit.imagenet.job import Preparation
from latentkit.imagenet.recognition import find_archives
from latentkit.sources.imagenet.official import Official


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def preparation(
    miniature: Miniature,
    official: dict[str, Official],
    *roles: str,
    allow_variant: bool = False,
    overwrite: bool = False,
) -> Preparation:
    archives = find_archives(miniature.folder, {}, official)
    if roles:
        archives = {role: path for role, path in archives.items() if role in roles}
    out = miniature.folder.parent / "out"
    return Preparation(archives, out, allow_variant, Console(quiet=True), official, overwrite)
