"""What pictures on disk are told apart by, without decoding them.

As for make, a file is the same when it lies in the same place and has the same size and mtime.
"""

import hashlib
from pathlib import Path
from typing import Any

from latentkit.errors import LatentkitError

MAX_HASHED = 2**30
"""A larger file is told by its place, size and mtime: it would take longer to hash than a user would wait."""


def file_identity(path: Path) -> dict[str, Any]:
    """A file's sha256; of one over 1 GiB its place, links resolved, and its size and mtime.

    Raises:
        LatentkitError: it cannot be read.
    """
    try:
        now = path.stat()
        if now.st_size > MAX_HASHED:
            return {"place": str(path.resolve()), "bytes": now.st_size, "mtime_ns": now.st_mtime_ns}
        with path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise LatentkitError(f"{path} cannot be read: {error.strerror or error}") from None
