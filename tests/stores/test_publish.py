"""Publishing: whole files or none, one clear line when it cannot be done, one writer at a time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_run import run, tree

import latentkit
from latentkit.errors import LatentkitError
from latentkit.stores.arrays import npy_publication, read_npy
from latentkit.stores.lock import OutputLock
from latentkit.stores.storage import Publication, publish, publish_json, publish_many, remove_temporaries

SCRIPT = Path(__file__).parents[1] / "store_run.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(latentkit.__file__).parent.parent)}


def test_names_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".npy")
    publish(path, lambda file: file.write(b"x"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_fails_validation_never_takes_its_name(tmp_path: Path) -> None:
    def refuse(file: object) -> None:
        raise ValueError("the header is wrong")

    (tmp_path / "b").write_bytes(b"old")
    files = [
        Publication(tmp_path / "a", lambda file: file.write(b"new")),
        Publication(tmp_path / "b", lambda file: file.write(b"new"), refuse),
    ]
    with pytest.raises(LatentkitError, match=r"^cannot write .*/b: .*the header is wrong$"):
        publish_many(files)
    assert tree(tmp_path) == {"b": b"old"}


def test_an_interrupt_leaves_no_temporary(tmp_path: Path) -> None:
    def interrupt(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "a", interrupt)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(LatentkitError, match=r"^cannot write .*/a: "):
        publish_json(tmp_path / "a", {})
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_only_our_temporaries_are_removed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (".latentkit-12-3.tmp", "sub/.latentkit-1-0.tmp", "notes.tmp", ".latentkit-12-x.tmp"):
        (tmp_path / name).write_bytes(b"")
    assert remove_temporaries(tmp_path, below=False) == 1
    assert remove_temporaries(tmp_path, below=True) == 1
    assert sorted(tree(tmp_path)) == [".latentkit-12-x.tmp", "notes.tmp"]
    assert remove_temporaries(tmp_path / "absent", below=True) == 0


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        np.float32(3.5).reshape(()),
        np.zeros((0, 3), np.uint8),
    ],
    ids=["whole", "strided", "fortran", "scalar", "empty"],
)
def test_npy_is_what_numpy_writes(tmp_path: Path, array: np.ndarray) -> None:
    publication, size = npy_publication(tmp_path / "ours.npy", array)
    publish_many([publication])
    np.save(tmp_path / "numpys.npy", np.ascontiguousarray(array).reshape(array.shape))
    ours = (tmp_path / "ours.npy").read_bytes()
    assert ours == (tmp_path / "numpys.npy").read_bytes()
    assert len(ours) == size
    declared = {"shape": list(array.shape), "dtype": str(array.dtype)}
    np.testing.assert_array_equal(read_npy(tmp_path / "ours.npy", declared), array)


@pytest.fixture(params=["npy", "shards"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("limit", [64, 150, 600, 1200, 2000])
def test_a_full_disk_is_one_line_and_resumes(tmp_path: Path, kind: str, limit: int) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    root = tmp_path / "full"
    command = [sys.executable, str(SCRIPT), str(root), kind, "0"]
    child = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, preexec_fn=limited)
    assert child.returncode == 1
    assert "LatentkitError: cannot write" in child.stderr.splitlines()[-1]
    assert "File too large: raise the file size limit" in child.stderr.splitlines()[-1]
    assert not list(root.rglob("*.tmp"))
    run(root, kind)
    run(tmp_path / "clean", kind)
    assert tree(root) == tree(tmp_path / "clean")


def test_a_small_disk_is_one_line_and_resumes(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        ballast = root / "ballast"
        ballast.write_bytes(bytes(64 << 10))
        with pytest.raises(LatentkitError, match="No space left on device: free some space"):
            run(root, kind)
        assert not list(root.rglob("*.tmp"))
        ballast.unlink()
        subprocess.run([*mount[:4], "remount,size=8m", *mount[5:]], check=True)
        run(root, kind)
        run(tmp_path / "clean", kind)
        assert tree(root) == tree(tmp_path / "clean")
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_second_process_is_told_who_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from latentkit.stores import OutputLock\n"
        "with OutputLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    first = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    assert first.stdout.readline() == "held\n"
    who = rf"^{tmp_path} is being written by pid {first.pid} on \S+ since \S+Z: .*OutputLock"
    with pytest.raises(LatentkitError, match=who), OutputLock(tmp_path):
        pass
    first.kill()
    first.communicate()
    with OutputLock(tmp_path):
        assert '"pid": ' + str(os.getpid()) in (tmp_path / ".latentkit" / "holder.json").read_text()
    assert sorted(tree(tmp_path)) == [".latentkit/lock"]
