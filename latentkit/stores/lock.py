"""One writer at a time for an output root."""

import contextlib
import json
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from latentkit.errors import LatentkitError
from latentkit.runtime.provenance import utc_now
from latentkit.stores.storage import make_folder, publish_json, remove_many, remove_temporaries


class OutputLock:
    """Holds ``<root>/.latentkit/lock``; who holds it is written beside, in ``holder.json``.

    The kernel releases the lock of a process that died, so a stale one is never an obstacle. Not reentrant.

    Raises:
        LatentkitError: on entering, when another process holds the root: which, where, and since when.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._holder = self.root / ".latentkit" / "holder.json"
        self._lock = FileLock(self.root / ".latentkit" / "lock", timeout=0)

    def __enter__(self) -> Self:
        make_folder(self._holder.parent)
        try:
            self._lock.acquire()
        except Timeout:
            raise LatentkitError(f"{self.root} is being written by {self._describe()}") from None
        except (OSError, NotImplementedError) as error:
            raise LatentkitError(f"cannot lock {self.root}: {error}: choose another output_dir") from None
        try:
            remove_temporaries(self._holder.parent, below=False)
            me = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
            publish_json(self._holder, me | {"command": shlex.join(sys.orig_argv)})
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            remove_many([self._holder])
        finally:
            self._lock.release()

    def _describe(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads(self._holder.read_bytes())
            who = f"pid {holder['pid']} on {holder['host']} since {holder['since']}"
            return f"{who}: {holder['command']}; wait for it, or stop it and start again"
        return "another process; wait for it, or stop it and start again"
