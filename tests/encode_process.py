"""Runs a verb of latentkit as a real process, forked from one that has the libraries imported already.

That saves the ten seconds that importing torch, Lightning and transformers takes on a small machine; all else
is as from a shell: arguments, working directory, standard streams, exit status, signals.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from latentkit.jobs.command import run

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "latentkit.prediction.encoding",
        "transformers.models.dinov3_vit.modeling_dinov3_vit",
        "transformers.models.t5.modeling_t5",
        "diffusers.models.autoencoders.autoencoder_kl",
        "warm",
    ]
)


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (negative: the signal), output, how often it changed the disk.

    `changes` counts the calls that `run_verb` can kill at; None for a process that was killed.
    """

    returncode: int
    stdout: str
    stderr: str
    changes: int | None


def kill_points(changes: int | None, few: int) -> list[int]:
    """Calls to be killed at, of a run that changes the disk so often: a few, evenly; `make torture`: all."""
    assert changes is not None
    assert changes > few
    number = changes if "LATENTKIT_TORTURE" in os.environ else few
    return [round(point * (changes - 1) / (number - 1)) for point in range(number)]


def was_killed(ended: Ended, point: int) -> bool:
    """Whether it was killed there, or came to its end before: quick batches share syncs, so counts vary."""
    return ended.returncode == -signal.SIGKILL or (ended.changes is not None and ended.changes <= point)


def encode(*arguments: str, cwd: Path, kill_at: int | None = None, timeout: float = 180) -> Ended:
    """``python -m latentkit.encode ARGUMENTS`` in `cwd`; see `run_verb`."""
    return run_verb("encode", *arguments, cwd=cwd, kill_at=kill_at, timeout=timeout)


def run_verb(
    verb: str,
    *arguments: str,
    cwd: Path,
    kill_at: int | None = None,
    interrupt_at: int | None = None,
    timeout: float = 180,
) -> Ended:
    """``python -m latentkit.VERB ARGUMENTS`` in `cwd`; or ``python VERB ARGUMENTS`` where that is a file.

    Args:
        kill_at: SIGKILL the process at its n-th call (from 0) that changes the disk's state for good: fsync,
            rename or unlink.
        interrupt_at: SIGINT at its n-th call.
    """
    with started(verb, *arguments, cwd=cwd, kill_at=kill_at, interrupt_at=interrupt_at) as child:
        return child.wait(timeout)


@dataclass(frozen=True)
class Running:
    """A process that `started` has started, the first of a process group of its own."""

    pid: int
    _process: BaseProcess
    _files: tuple[Path, Path, Path]

    def wait(self, timeout: float = 180) -> Ended:
        """How it ended. Raises TimeoutError when it does not in so many seconds."""
        self._process.join(timeout)
        stdout, stderr, changes = self._files
        if self._process.exitcode is None:
            raise TimeoutError(f"it ran for over {timeout} s:\n{stderr.read_text()}")
        counted = int(changes.read_text()) if changes.exists() else None
        return Ended(self._process.exitcode, stdout.read_text(), stderr.read_text(), counted)


@contextlib.contextmanager
def started(
    verb: str,
    *arguments: str,
    cwd: Path,
    kill_at: int | None = None,
    interrupt_at: int | None = None,
    kib: int | None = None,
) -> Iterator[Running]:
    """As `run_verb`, but goes on while it runs; what is left of its process group at the end is killed.

    Args:
        kib: no file can grow over so many KiB.
    """
    out, err, changes = (cwd.parent / f"{cwd.name}.{name}" for name in ("stdout", "stderr", "changes"))
    changes.unlink(missing_ok=True)
    process = _CONTEXT.Process(
        target=_main,
        args=(verb, arguments, str(cwd), str(out), str(err), str(changes), kill_at, interrupt_at, kib),
    )
    process.start()
    assert process.pid is not None
    try:
        yield Running(process.pid, process, (out, err, changes))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def run_here(verb: str, *arguments: str, cwd: Path) -> Ended:
    """``python -m latentkit.VERB ARGUMENTS`` in `cwd`, by this process: where no process is the point."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = run(verb, arguments)
    return Ended(status, stdout.getvalue(), stderr.getvalue(), None)


def run_with_small_files(kib: int, verb: str, *arguments: str, cwd: Path) -> Ended:
    """``python -m latentkit.VERB ARGUMENTS`` in `cwd`, where no file can grow over so many KiB."""
    with started(verb, *arguments, cwd=cwd, kib=kib) as child:
        return child.wait()


def files(folder: Path, without: Collection[str]) -> dict[str, bytes]:
    """Path -> bytes of what lies in a folder, without files of these names and the time in a provenance."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }
    for name in found:
        if name.endswith("provenance.json"):
            found[name] = re.sub(rb'"generated_at_utc": "[^"]*"', b"", found[name])
    return found


def _main(
    verb: str,
    arguments: tuple[str, ...],
    cwd: str,
    stdout: str,
    stderr: str,
    changes: str,
    kill_at: int | None,
    interrupt_at: int | None,
    kib: int | None,
) -> None:
    os.setsid()
    if kib is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))
    os.chdir(cwd)
    script = verb.endswith(".py")
    sys.path.insert(0, str(Path(verb).parent) if script else cwd)  # as ``python`` has it
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    for path, number in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = [verb, *arguments]
    calls = _count_and_signal({kill_at: signal.SIGKILL, interrupt_at: signal.SIGINT})
    try:
        if script:
            runpy.run_path(verb, run_name="__main__")
        else:
            module = importlib.import_module(f"latentkit.{verb}")
            sys.modules["__main__"].__spec__ = module.__spec__  # Lightning starts other processes by it
            module.main()
    finally:
        Path(changes).write_text(str(next(calls)))


def _count_and_signal(signals: dict[int | None, signal.Signals]) -> Iterator[int]:
    calls = itertools.count()
    me = os.getpid()

    def counted(function):
        def call(*arguments, **options):
            if os.getpid() == me and (number := signals.get(next(calls))):
                os.kill(me, number)
            return function(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace", "unlink", "remove"):
        setattr(os, name, counted(getattr(os, name)))
    return calls
