"""Prune: what goes, what stays, what comes back; refused, interrupted, killed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import library_tree
import numpy as np
import pytest
from encode_process import Ended, kill_points, run_verb
from library_tree import STORE, encode, library, store, tree

from latentkit.errors import LatentkitError
from latentkit.stores import OutputLock
from latentkit.upkeep.prune import plan_prune, prune, restore


def verb(data: Path, *arguments: str, **options: int) -> Ended:
    return run_verb("prune", "dataset=crawlr", *STORE, *arguments, cwd=data.parent, **options)


def lose(data: Path, *keys: str) -> None:
    """The raw files vanish."""
    for key in keys:
        (data / "raw" / key).unlink()


def mentions(data: Path, key: str) -> list[str]:
    """Every file whose name or text has the key, but in the trash, and captions, which users write."""
    return [
        name
        for name, content in tree(data).items()
        if "/pruned/" not in name and not name.endswith(".txt") and (key in name or key.encode() in content)
    ]


def test_what_lost_its_photo_goes_and_nothing_else(data: Path) -> None:
    np.save(data / "derived" / "dino" / "stray.npy", np.zeros(3))
    before = tree(data)
    lose(data, "p03", "p05")
    listed = verb(data, "dry_run=true")
    assert listed.returncode == 0, listed.stderr
    assert tree(data) == {name: value for name, value in before.items() if name not in ("raw/p03", "raw/p05")}
    assert sorted(listed.stdout.splitlines()) == sorted(
        [
            "link data/approved/p03.jpg",
            "link data/approved/p05.jpg",
            "record p03",
            *(f"done {name} p03" for name in library_tree.ENCODERS),
            "quarantine p05",
            "array data/derived/vae_latents/p03.npy",
            "array data/derived/t5_hidden/p03.npy",
            "array data/derived/dino/p03.npy",
            "array data/derived/dino/stray.npy",
            "array data/derived/dino_patches/p03.npy",
        ]
    )
    ended = verb(data, "verbose=true")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == listed.stdout
    for key in ("p03", "p05", "stray"):
        assert mentions(data, key) == []
    after = {name: value for name, value in tree(data).items() if "/pruned/" not in name}
    assert {name for name in before if name not in after} == {
        "raw/p03",
        "raw/p05",
        "derived/quarantine.jsonl",
        *(line.split("data/")[1] for line in listed.stdout.splitlines() if " data/" in line),
    }
    changed = {name for name, value in after.items() if before[name] != value}
    assert changed == {
        "derived/approved_image_dataset.jsonl",
        *(f"derived/.latentkit/done/{name}.jsonl" for name in library_tree.ENCODERS),
    }
    encode(data)
    assert verb(data).stdout == ""


def test_everything_comes_back_as_it_was(data: Path) -> None:
    records = data / "derived" / "approved_image_dataset.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    # In no order, with a bad line, other line ends, a record twice, and no newline at the end.
    odd = [lines[7], lines[2], b"{bad\n", lines[0].replace(b"\n", b"\r\n"), lines[2], *lines[3:7]]
    records.write_bytes(b"".join(odd).rstrip(b"\n"))
    lose(data, "p02", "p05", "p08")
    before = tree(data)
    assert verb(data, "max_share=0.5").returncode == 0
    assert tree(data) != before
    ended = verb(data, "restore=true")
    assert ended.returncode == 0, ended.stderr
    assert tree(data) == before
    assert "nothing to restore" in verb(data, "restore=true").stderr
    assert tree(data) == before


def test_only_the_last_prune_can_be_restored(data: Path) -> None:
    lose(data, "p01")
    assert verb(data).returncode == 0
    first = tree(data)
    assert "nothing to prune" in verb(data).stderr
    assert tree(data) == first
    lose(data, "p02")
    second = tree(data)
    assert verb(data).returncode == 0
    assert verb(data, "restore=true").returncode == 0
    assert {name: value for name, value in tree(data).items() if "/pruned/" not in name} == {
        name: value for name, value in second.items() if "/pruned/" not in name
    }
    assert [name for name in tree(data) if "/pruned/" in name] == []


def test_more_than_a_fifth_of_anything_is_refused(data: Path) -> None:
    """A share is of one kind: one array folder is enough."""
    for name in ("a", "b", "c"):
        np.save(data / "derived" / "dino_patches" / f"{name}.npy", np.zeros(3))
    before = tree(data)
    ended = verb(data)
    assert ended.returncode == 1
    assert "3 of 14 arrays in data/derived/dino_patches" in ended.stderr
    assert "max_share=0.215" in ended.stderr
    assert tree(data) == before
    dry = verb(data, "dry_run=true")
    assert (dry.returncode, len(dry.stdout.splitlines())) == (1, 3)
    assert verb(data, "max_share=0.215").returncode == 0
    assert verb(data, "max_share=1.5").returncode == 2


def test_a_library_that_lost_everything(data: Path) -> None:
    before = tree(data)
    shutil.move(data / "raw", data / "elsewhere")
    ended = verb(data)
    assert ended.returncode == 1
    assert "12 of 12 links" in ended.stderr
    assert verb(data, "max_share=1").returncode == 0
    assert list((data / "approved").glob("*.jpg")) == []
    assert verb(data, "max_share=1").returncode == 0
    assert verb(data, "restore=true").returncode == 0
    shutil.move(data / "elsewhere", data / "raw")
    assert tree(data) == before


def test_a_link_that_leads_out_is_not_broken_and_not_followed(data: Path) -> None:
    outside = data.parent / "private.jpg"
    outside.write_bytes(b"mine")
    for name, target in (("out.jpg", "../../private.jpg"), ("gone.jpg", "../../nowhere.jpg")):
        (data / "approved" / name).symlink_to(target)
    assert "nothing to prune" in verb(data).stderr
    with OutputLock(data / "derived"):
        plan = prune(store(data), library(data), withdrawn={"out", "gone"})
    assert not plan
    assert os.path.lexists(data / "approved" / "out.jpg")
    assert os.path.lexists(data / "approved" / "gone.jpg")
    assert outside.read_bytes() == b"mine"


def test_a_file_of_the_users_own_with_a_withdrawn_name_stays(data: Path) -> None:
    own = data / "approved" / "p03.jpg"
    own.unlink()
    own.write_bytes(b"mine")
    before = tree(data)
    with OutputLock(data / "derived"), OutputLock(data):
        assert not prune(store(data), library(data), withdrawn={"p03"})
    assert tree(data) == before


def test_a_withdrawn_photo_goes_with_its_file_and_all_that_was_made_of_it(data: Path) -> None:
    (data / "approved" / "p09b.jpg").symlink_to("../raw/p09")  # a second link to one file
    (data / "raw" / "p10").unlink()
    (data / "raw" / "p10").symlink_to("p11")  # swapped: not a regular file
    before = tree(data)
    with OutputLock(data / "derived"), OutputLock(data):
        plan = prune(store(data), library(data), withdrawn={"p04", "p09", "p10"}, max_share=0.3)
    assert plan.things["link", ""] == ["p04.jpg", "p09.jpg", "p10.jpg"]
    assert plan.things["raw", ""] == ["p04"]
    assert mentions(data, "p04") == []
    assert (data / "raw" / "p09").exists()
    assert (data / "raw" / "p10").is_symlink()
    assert (data / "raw" / "p11").exists()
    with OutputLock(data / "derived"), OutputLock(data):
        assert restore(store(data), library(data)) == sum(plan.counts().values())
    assert tree(data) == before


def test_restore_never_overwrites_what_came_since(data: Path) -> None:
    (data / "raw" / "p03").rename(data.parent / "p03")
    assert verb(data).returncode == 0
    pruned = tree(data)
    (data.parent / "p03").rename(data / "raw" / "p03")
    (data / "approved" / "p03.png").symlink_to("../raw/p03")
    encode(data)
    before = tree(data)
    ended = verb(data, "restore=true")
    assert ended.returncode == 1
    assert "data/derived/" in ended.stderr
    assert "p03" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert tree(data) == before
    assert before != pruned


def test_a_prune_during_another_run_says_who_holds_the_lock(data: Path) -> None:
    lose(data, "p03")
    before = tree(data)
    for folder in (data / "derived", data):
        with OutputLock(folder):
            ended = verb(data)
        assert ended.returncode == 1
        assert f"is being written by pid {os.getpid()}" in ended.stderr
    assert tree(data) == before


def killed_at_every_point(
    data: Path,
    do: Callable[[Path], object],
    finish: Callable[[Path], object],
    clean: dict[str, bytes],
    step: int = 1,
) -> int:
    """Repeat: copy, `do` in a child that is killed `step` changes to the disk later, `finish`; compare."""
    for point in range(0, 1000, step):
        copy = data.parent.parent / f"killed{point}" / "data"
        shutil.copytree(data, copy, symlinks=True)
        child = os.fork()
        if child == 0:
            try:
                die_at(point)
                do(copy)
            finally:
                os._exit(0)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            return point
        finish(copy)
        assert tree(copy) == clean, f"killed at change {point}"
        shutil.rmtree(copy.parent)
    raise AssertionError("it never ended")


def die_at(point: int) -> None:
    calls = iter(range(1000000))

    def deadly(function):
        def call(*arguments, **options):
            if next(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))


def pruned(data: Path) -> None:
    with OutputLock(data / "derived"), OutputLock(data):
        prune(store(data), library(data), withdrawn={"p04"}, max_share=0.5)


def restored(data: Path) -> None:
    with OutputLock(data / "derived"), OutputLock(data):
        restore(store(data), library(data))


def test_a_killed_prune_is_finished_by_the_next(data: Path) -> None:
    lose(data, "p01")
    pruned(data)  # so that the next one replaces what it took
    lose(data, "p03", "p05", "p08")
    (data / "approved" / "p02.jpg").rename(data / "approved" / "p02b.jpg")
    clean = data.parent.parent / "clean" / "data"
    shutil.copytree(data, clean, symlinks=True)
    pruned(clean)
    assert killed_at_every_point(data, pruned, pruned, tree(clean)) > 60


def test_a_killed_prune_is_finished_by_the_next_restore(data: Path) -> None:
    lose(data, "p03", "p05", "p08")
    before = tree(data)

    def restored_in_the_end(copy: Path) -> None:
        pruned(copy)
        restored(copy)

    assert killed_at_every_point(data, pruned, restored_in_the_end, before, step=3) > 50


def test_a_killed_restore_is_finished_by_the_next(data: Path) -> None:
    lose(data, "p03", "p05", "p08")
    before = tree(data)
    pruned(data)
    assert killed_at_every_point(data, restored, restored, before, step=2) > 50


def test_a_killed_restore_is_finished_by_the_next_prune(data: Path) -> None:
    lose(data, "p03", "p05", "p08")
    clean = data.parent.parent / "clean" / "data"
    shutil.copytree(data, clean, symlinks=True)
    pruned(clean)
    again = tree(clean)
    pruned(data)
    killed_at_every_point(data, restored, pruned, again, step=5)


def killed(data: Path, do: Callable[[Path], object], point: int) -> None:
    child = os.fork()
    if child == 0:
        try:
            die_at(point)
            do(data)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def arrays_and_links(data: Path) -> dict[str, bytes]:
    return {name: value for name, value in tree(data).items() if ".latentkit/" not in name}


@pytest.mark.parametrize("point", [12, 24, 36, 40])
def test_what_came_back_after_a_kill_is_not_taken_by_the_old_plan(data: Path, point: int) -> None:
    before = arrays_and_links(data)
    killed(data, pruned, point)  # p04 is withdrawn
    (data / "raw" / "p04").write_bytes(b"photo 4")  # and listed again
    if not os.path.lexists(link := data / "approved" / "p04.jpg"):
        link.symlink_to("../raw/p04")
    encode(data)
    assert arrays_and_links(data) == before
    lose(data, "p07")
    said: list[str] = []
    with OutputLock(data / "derived"), OutputLock(data):
        for _ in range(2):  # the first may have to finish what the kill left in the trash
            prune(store(data), library(data), say=said.append)
    gone = set(before) - set(arrays_and_links(data))
    assert gone
    assert all("p07" in name for name in gone)
    assert any("link" in line and "p07" in line for line in said)


def test_a_killed_restore_puts_nothing_over_what_came_since(data: Path) -> None:
    old = (data / "derived" / "vae_latents" / "p04.npy").read_bytes()
    pruned(data)
    killed(data, restored, 8)
    (data / "raw" / "p04").write_bytes(b"PHOTO 4")
    (data / "approved" / "p04.jpg").unlink(missing_ok=True)
    (data / "approved" / "p04.jpg").symlink_to("../raw/p04")
    encode(data)
    new = arrays_and_links(data)
    with pytest.raises(LatentkitError, match=r"all but .*p04"):
        pruned(data)
    assert arrays_and_links(data) == new
    kept = [path.read_bytes() for path in data.rglob("pruned/*/arrays/vae_latents/p04.npy")]
    assert kept == [old]


def test_the_verb_killed_and_repeated(data: Path) -> None:
    lose(data, "p03", "p05")
    clean = Path(shutil.copytree(data, data.parent.parent / "clean" / "data", symlinks=True))
    ended = verb(clean)
    assert ended.returncode == 0
    assert ended.changes is not None
    for point in kill_points(ended.changes, 4):
        copy = Path(shutil.copytree(data, data.parent.parent / f"copy{point}" / "data", symlinks=True))
        assert verb(copy, kill_at=point).returncode == -signal.SIGKILL
        assert verb(copy).returncode == 0
        assert tree(copy) == tree(clean)


def test_an_interrupted_prune_is_finished_by_the_next(data: Path) -> None:
    lose(data, "p03", "p05")
    clean = Path(shutil.copytree(data, data.parent.parent / "clean" / "data", symlinks=True))
    ended = verb(clean)
    assert ended.changes is not None
    stopped = verb(data, interrupt_at=ended.changes // 2)
    assert stopped.returncode == 130
    assert "interrupted" in stopped.stderr
    assert verb(data).returncode == 0
    assert tree(data) == tree(clean)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system other than that of ``tmp_path``."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_folders_on_another_disk_have_a_trash_of_their_own(data: Path, other_disk: Path) -> None:
    for folder in (data / "derived" / "vae_latents", data / "raw"):
        shutil.move(folder, other_disk / folder.name)
        folder.symlink_to(other_disk / folder.name)
    latents, raw = (other_disk / name for name in ("vae_latents", "raw"))
    before = [tree(folder) for folder in (data, latents, raw)]
    pruned(data)
    assert not (latents / "p04.npy").exists()
    assert not (raw / "p04").exists()
    assert len(list(latents.rglob(".latentkit/pruned/*/arrays/vae_latents/p04.npy"))) == 1
    assert len(list(raw.rglob(".latentkit/pruned/*/raw/p04"))) == 1
    encode(data)  # what lies in the trash is no array
    assert plan_prune(store(data), library(data)).counts() == {}
    restored(data)
    assert [tree(folder) for folder in (data, latents, raw)] == before


def test_a_dry_run_after_a_kill_says_what_to_do(data: Path) -> None:
    lose(data, "p03")
    ended = verb(data)
    plan = data / "derived" / ".latentkit" / "pruned" / "plan.jsonl"
    plan.rename(plan.with_name("plan.begun.jsonl"))  # as a kill just before the end leaves it
    before = tree(data)
    dry = verb(data, "dry_run=true")
    assert dry.returncode == 1
    assert "without dry_run=true" in dry.stderr
    assert tree(data) == before
    assert verb(data).returncode == 0
    assert plan.exists()
    assert ended.returncode == 0


def test_a_full_disk_leaves_everything_or_what_the_next_prune_finishes(data: Path) -> None:
    lose(data, "p03", "p05")
    clean = Path(shutil.copytree(data, data.parent.parent / "clean" / "data", symlinks=True))
    pruned(clean)
    stopped = 0
    for limit in (200, 1500, 3000, 4000):
        copy = Path(shutil.copytree(data, data.parent.parent / f"full{limit}" / "data", symlinks=True))
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                pruned(copy)
            except LatentkitError as error:
                os._exit(7 if "file size limit" in str(error) else 8)
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 7)
        stopped += status == 7
        assert not list(copy.rglob("*.tmp"))
        pruned(copy)
        assert tree(copy) == tree(clean)
    assert stopped > 1


def test_any_folder_with_an_npy_store(data: Path) -> None:
    """No links there: what the collection no longer has goes from the outputs alone."""
    photos = data.parent / "photos"
    photos.mkdir()
    for number in range(12):
        (photos / f"p{number:02d}.jpg").write_bytes(b"a picture is not looked at")
    (photos / "p03.jpg").unlink()
    before = tree(data)
    root = ("dataset=folder", "dataset.root=photos", "output_dir=data/derived")
    ended = run_verb("prune", *root, *STORE, "verbose=true", cwd=data.parent)
    assert ended.returncode == 0, ended.stderr
    assert {line.split()[0] for line in ended.stdout.splitlines()} == {"record", "done", "array"}
    assert mentions(data / "derived", "p03") == []
    assert (data / "approved" / "p03.jpg").exists()
    ended = run_verb("prune", *root, *STORE, "restore=true", cwd=data.parent)
    assert ended.returncode == 0, ended.stderr
    assert tree(data) == before


def test_shards_are_refused_in_one_line(data: Path) -> None:
    ended = run_verb("prune", "dataset=crawlr", "store=shards", cwd=data.parent)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_names_that_are_not_text(data: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\n.npy")
    np.save(data / "derived" / "dino" / odd, np.zeros(3))
    before = tree(data)
    ended = verb(data, "verbose=true")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "array data/derived/dino/caf\\xe9\\x0a.npy\n"
    assert verb(data, "restore=true").returncode == 0
    assert tree(data) == before


def test_it_imports_no_torch() -> None:
    code = "import sys, latentkit.upkeep.prune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_plan_of_a_large_library_is_exact(data: Path) -> None:
    plan = plan_prune(store(data), library(data), withdrawn={"p00", "p01"})
    assert plan.counts() == {"link": 2, "raw file": 2, "record": 2, "ledger line": 6, "array": 8}
    assert json.loads(next((data / "derived" / "approved_image_dataset.jsonl").open()))["image_id"] == "p00"
