"""How a run came about: versions, git revision, the exact command."""

import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latentkit import __version__

_LIBRARIES = (
    *("torch", "lightning", "transformers", "diffusers", "tokenizers", "safetensors"),
    *("numpy", "pillow", "simplejpeg", "torchmetrics", "scipy", "hydra-core"),
)


def utc_now() -> str:
    """The time to the second, ISO 8601 in UTC: ``2024-05-01T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Library -> version, of all that touch the numbers; nothing is imported."""
    found = {"latentkit": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def provenance() -> dict[str, Any]:
    """The command as typed, when and where it ran, latentkit's git revision, and `versions`."""
    return {
        "command": shlex.join(sys.orig_argv),
        "started_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "git_revision": _git_revision(),
        "versions": versions(),
    }


def _git_revision() -> str | None:
    """Of the checkout that latentkit runs from; None for an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
