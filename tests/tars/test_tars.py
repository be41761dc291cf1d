"""latentkit.shard: what is in the tars, what a repeat does, and that kills leave nothing wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from encode_process import Ended, run_verb
from rich.console import Console
from store_run import kill_at
from training_tree import BUCKETS, KEYS, RECORDS, Captioned, bucket_of, build, tree

from latentkit.errors import LatentkitError
from latentkit.exports.webdataset import TarJob, TarResult
from latentkit.stores import NpyStore, OutputLock

MEMBERS = {"dinov3": "dinov3", "flux_vae": "vae", "t5": "t5h", "t5_mask": "t5m"}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data/derived``."""
    work = tmp_path_factory.mktemp("encoded")
    build(work / "data" / "derived")
    return work


@pytest.fixture
def work(encoded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(encoded, tmp_path / "work"))


def shard(work: Path, *arguments: str, **options: Any) -> Ended:
    return run_verb("shard", *arguments, cwd=work, **options)


def job(work: Path, **settings: Any) -> TarJob:
    folders = {"flux_vae": "vae_latents", "t5": "t5_hidden"}
    store = NpyStore(root=str(work / "data" / "derived"), folders=folders, records=RECORDS)
    return TarJob(store=store, shards_dir=str(work / "data" / "shards"), members=MEMBERS, **settings)


def run(work: Path, **settings: Any) -> TarResult:
    sharding = job(work, **settings)
    with sharding.locks():
        return sharding.run(sharding.plan(), Console(file=io.StringIO()))


def records(work: Path) -> dict[str, bytes]:
    lines = (work / "data" / "derived" / RECORDS).read_bytes().splitlines()
    return {json.loads(line)["image_id"]: line for line in lines}


def manifest(work: Path) -> dict[str, Any]:
    return json.loads((work / "data" / "shards" / "manifest.json").read_text())


def keys_in(work: Path, bucket: str = "*") -> dict[str, list[str]]:
    """Tar -> its keys in their order."""
    found = {}
    for path in sorted((work / "data" / "shards").glob(f"bucket_{bucket}/*.tar")):
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")]
        found[f"{path.parent.name}/{path.name}"] = [unquote(name.removesuffix(".json")) for name in names]
    return found


def state(work: Path) -> dict[str, tuple[int, int]]:
    """Which file lies where, and since when."""
    paths = list((work / "data" / "shards").glob("[!.]*/*"))
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_every_complete_picture_is_in_a_tar_of_its_bucket_once(work: Path) -> None:
    ended = shard(work, "shard_size=4")
    assert ended.returncode == 0, ended.stderr
    assert "23 complete pictures" in ended.stderr
    shards, lines, seen = work / "data" / "shards", records(work), []
    for path in sorted(shards.glob("bucket_*/*.tar")):
        with tarfile.open(path) as tar:
            contents = {}
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (
                    0,
                    0,
                    0,
                    "",
                    0o644,
                )
                contents[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
        assert path.stat().st_size % tarfile.RECORDSIZE == 0
        names = sorted({name.partition(".")[0] for name in contents}, key=unquote)
        assert names == list(dict.fromkeys(name.partition(".")[0] for name in contents))
        assert len(names) <= 4
        for name in names:
            key = unquote(name)
            seen.append(key)
            assert path.parent.name == f"bucket_{bucket_of(key)}"
            assert contents.pop(f"{name}.json") == lines[key]
            mask = np.load(io.BytesIO(contents.pop(f"{name}.t5m.npy")), allow_pickle=False)
            assert mask.dtype == np.uint8
            assert mask.tolist() == json.loads(lines[key])["t5_attention_mask"]
            for member, folder in {
                "dinov3": "dinov3",
                "dinov3_patches": "dinov3_patches",
                "vae": "vae_latents",
                "t5h": "t5_hidden",
            }.items():
                file = work / "data" / "derived" / folder / f"{key}.npy"
                assert contents.pop(f"{name}.{member}.npy") == file.read_bytes()
        assert contents == {}
    assert sorted(seen) == sorted(KEYS)
    said = manifest(work)
    assert (said["complete"], said["total"], said["incomplete"]["records"]) == (True, 23, 0)
    assert said["contracts"]["flux_vae"]["contract"]["scaling_factor"] == 0.3611
    counts = {path: len(keys) for path, keys in keys_in(work).items()}
    assert {tar["path"]: tar["count"] for tar in said["shards"]} == counts
    check_manifest(work)


def check_manifest(work: Path) -> None:
    for tar in manifest(work)["shards"]:
        content = (work / "data" / "shards" / tar["path"]).read_bytes()
        assert (tar["bytes"], tar["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_what_is_incomplete_is_left_out_and_counted(work: Path) -> None:
    derived = work / "data" / "derived"
    build(derived, Captioned([*KEYS, "mute"], wordless=["mute"]))
    (derived / "vae_latents" / "p00.npy").unlink()
    (derived / "dinov3_patches" / "p01.npy").write_bytes(b"")
    lines = records(work)
    lines["p02"] = lines["p02"].replace(b', "t5"]', b"]")
    lines["p03"] = lines["p03"].replace(b'"A photo of p03"', b'""')
    (derived / RECORDS).write_bytes(b"\n".join([*lines.values(), b"no record\n"]))
    ended = shard(work)
    assert ended.returncode == 0, ended.stderr
    inside = {key for keys in keys_in(work).values() for key in keys}
    assert inside == set(KEYS) - {"p00", "p01", "p02", "p03"}
    assert manifest(work)["incomplete"] == {
        "records": 6,
        "lacking": {"caption": 2, "dinov3": 1, "flux_vae": 1, "mask": 1, "readable record": 1, "t5": 2},
    }
    assert "incomplete, not in the tars: 6" in ended.stderr


def test_outputs_of_another_caption_or_picture_are_left_out_until_they_are_encoded(work: Path) -> None:
    derived = work / "data" / "derived"
    lines = records(work)
    lines["p03"] = lines["p03"].replace(b'"A photo of p03"', b'"Something else"')
    (derived / RECORDS).write_bytes(b"\n".join(lines.values()))
    ledger = derived / ".latentkit" / "done" / "dinov3.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    for entry in entries:
        changed = {"p04": hashlib.sha256(b"another picture").hexdigest(), "p05": ""}
        entry["sha256"] = changed.get(entry["key"], entry["sha256"])
    ledger.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run(work)
    assert {key for keys in keys_in(work).values() for key in keys} == set(KEYS) - {"p03", "p04"}
    assert manifest(work)["incomplete"] == {"records": 2, "lacking": {"stale": 2}}
    build(derived)
    run(work)
    assert {key for keys in keys_in(work).values() for key in keys} == set(KEYS)


def test_a_repeat_changes_nothing_and_a_change_only_what_it_must(work: Path) -> None:
    assert shard(work, "shard_size=3").returncode == 0
    before, names = state(work), keys_in(work)
    ended = shard(work, "shard_size=3")
    assert ended.returncode == 0
    assert "nothing to do" in ended.stderr
    assert state(work) == before

    # The last picture of a bucket goes: one tar has one less, or is gone; the others are not touched.
    path, keys = list(names.items())[-1]
    (work / "data" / "derived" / "t5_hidden" / f"{keys[-1]}.npy").unlink()
    run(work, shard_size=3)
    after = state(work)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {str(work / "data" / "shards" / path)}
    check_manifest(work)

    run(work, shard_size=100)
    assert [name.partition("/")[2] for name in keys_in(work)] == ["shard-000000.tar"] * 3
    clean = Path(shutil.copytree(work, work.parent / "clean"))
    shutil.rmtree(clean / "data" / "shards")
    run(clean, shard_size=100)
    assert tree(work / "data" / "shards") == tree(clean / "data" / "shards")


def test_a_picture_that_was_encoded_again_is_packed_again(work: Path) -> None:
    run(work)
    before = state(work)
    build(work / "data" / "derived", Captioned(["p05"], version=1))
    run(work)
    path = work / "data" / "shards" / f"bucket_{bucket_of('p05')}" / "shard-000000.tar"
    assert {name for name, was in before.items() if state(work)[name] != was} == {str(path)}
    with tarfile.open(path) as tar:
        packed = tar.extractfile("p05.vae.npy").read()  # type: ignore[union-attr]
    assert packed == (work / "data" / "derived" / "vae_latents" / "p05.npy").read_bytes()


def test_chosen_buckets_leave_the_others_alone(work: Path) -> None:
    first, second, third = sorted(BUCKETS)
    assert shard(work, f"bucket=[{second}]", "shard_size=2").returncode == 0
    assert {path.partition("/")[0] for path in keys_in(work)} == {f"bucket_{second}"}
    kept = keys_in(work)
    assert shard(work, f"bucket=[{first},{third}]", "shard_size=5", "shuffle=true").returncode == 0
    assert kept.items() <= keys_in(work).items()
    said = manifest(work)
    assert said["buckets"][second] == {"complete": True, "shard_size": 2, "shuffle_seed": None}
    assert said["buckets"][first] == {"complete": True, "shard_size": 5, "shuffle_seed": 0}
    assert said["total"] == 23
    check_manifest(work)

    ended = shard(work, "bucket=[9x9]")
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in ("9x9", *BUCKETS))
    shutil.rmtree(work / "data" / "derived")
    build(work / "data" / "derived", precision="tf32")
    ended = shard(work, f"bucket=[{first}]")
    assert ended.returncode == 2
    assert "leave bucket= out" in ended.stderr
    assert shard(work).returncode == 0
    assert manifest(work)["contracts"]["flux_vae"]["contract"]["precision"] == "tf32"
    check_manifest(work)


def test_shuffling_is_a_permutation_that_the_seed_decides(work: Path) -> None:
    def order(**settings: Any) -> list[str]:
        run(work, shard_size=2, **settings)
        return [key for keys in keys_in(work, "64x64").values() for key in keys]

    plain, shuffled = order(), order(shuffle=True)
    assert plain == sorted(plain) == sorted(shuffled)
    assert shuffled != plain
    assert order(shuffle=True, seed=1) not in (plain, shuffled)
    assert order(shuffle=True) == shuffled
    (work / "data" / "derived" / "dinov3" / f"{shuffled[2]}.npy").unlink()
    assert order(shuffle=True) == [key for key in shuffled if key != shuffled[2]]


def test_a_damaged_array_is_left_out_named_and_taken_up_when_it_is_whole_again(work: Path) -> None:
    run(work, shard_size=4)
    clean = tree(work / "data" / "shards")
    path = work / "data" / "derived" / "vae_latents" / "p04.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-2] + np.float16("nan").tobytes())
    hidden = work / "data" / "derived" / "t5_hidden" / "p06.npy"
    sound = hidden.read_bytes()
    hidden.write_bytes(b"\x93NUMPY\x01\x00" + bytes(len(sound) - 8))
    shutil.rmtree(work / "data" / "shards")
    ended = shard(work, "shard_size=4")
    assert ended.returncode == 3
    assert "p04" in ended.stderr
    assert "p06" in ended.stderr
    assert "verify fix=true" in ended.stderr
    inside = {key for keys in keys_in(work).values() for key in keys}
    assert inside == set(KEYS) - {"p04", "p06"}
    check_manifest(work)
    before = state(work)
    assert shard(work, "shard_size=4").returncode == 3
    assert state(work) == before
    path.write_bytes(good)
    hidden.write_bytes(sound)
    assert shard(work, "shard_size=4").returncode == 0
    assert tree(work / "data" / "shards") == clean


def forked(what: Callable[[], object]) -> int:
    """Run in a forked child; its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            what()
            status = 0
        except LatentkitError as error:
            sys.stderr.write(str(error))
            status = 7
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("over", [None, {"shard_size": 5}], ids=["first", "over other settings"])
def test_a_kill_anywhere_loses_nothing_and_the_manifest_never_lies(
    work: Path, tmp_path: Path, over: dict[str, int] | None
) -> None:
    if over:
        run(work, **over)
        (work / "data" / "derived" / "dinov3" / "p02.npy").unlink()
    clean = Path(shutil.copytree(work, tmp_path / "clean"))
    run(clean, shard_size=8, shuffle=True)
    expected = tree(clean / "data")
    killed = 0
    for nth in range(1, 1000):
        copy = Path(shutil.copytree(work, tmp_path / f"killed{nth}"))

        def deadly(copy: Path = copy, nth: int = nth) -> None:
            kill_at(nth)
            run(copy, shard_size=8, shuffle=True)

        status = forked(deadly)
        if (copy / "data" / "shards" / "manifest.json").exists():
            check_manifest(copy)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
        run(copy, shard_size=8, shuffle=True)
        assert tree(copy / "data") == expected, f"killed at call {nth}"
        shutil.rmtree(copy)
    assert killed > 30


def test_a_full_disk_is_one_line_and_what_was_finished_stays(work: Path, capfd: Any) -> None:
    sizes = [path.stat().st_size for path in (work / "data" / "derived" / "vae_latents").glob("*.npy")]

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        run(work, shard_size=8)

    assert max(sizes) < 20000
    assert os.WEXITSTATUS(forked(small)) == 7
    said = capfd.readouterr().err
    assert "shard-000000.tar" in said
    assert "finished work is kept" in said
    assert not keys_in(work)
    assert not list((work / "data" / "shards").rglob("*.tmp"))
    run(work, shard_size=8)
    assert manifest(work)["total"] == 23


def test_ctrl_c_finishes_the_tar_in_hand_and_the_same_command_goes_on(work: Path, tmp_path: Path) -> None:
    clean = Path(shutil.copytree(work, tmp_path / "clean"))
    calls = shard(clean, "shard_size=2").changes
    assert calls
    ended = shard(work, "shard_size=2", interrupt_at=calls // 2)
    assert ended.returncode == 130
    assert "tars left; the same command goes on" in ended.stderr
    done = state(work)
    assert 0 < len(manifest(work)["shards"]) < len(keys_in(clean))
    assert not manifest(work)["complete"]
    check_manifest(work)
    assert shard(work, "shard_size=2").returncode == 0
    assert done.items() <= state(work).items()
    assert tree(work / "data" / "shards") == tree(clean / "data" / "shards")


def test_it_waits_for_no_encode_and_a_dry_run_touches_nothing(work: Path) -> None:
    before = tree(work)
    ended = shard(work, "dry_run=true", "shard_size=4")
    assert ended.returncode == 0
    assert "tars to write (23 pictures" in ended.stderr
    assert tree(work) == before
    with OutputLock(work / "data" / "derived"):
        ended = shard(work)
    assert ended.returncode == 1
    assert f"pid {os.getpid()}" in ended.stderr
    assert not (work / "data" / "shards").exists()


def test_nothing_complete_is_an_error_that_removes_nothing(work: Path) -> None:
    run(work)
    before = tree(work / "data" / "shards")
    for path in (work / "data" / "derived" / "dinov3").rglob("*.npy"):
        path.unlink()
    ended = shard(work)
    assert ended.returncode == 1
    assert "23 lack dinov3" in ended.stderr
    assert tree(work / "data" / "shards") == before


def test_pictures_without_buckets_have_a_folder_of_their_own(tmp_path: Path) -> None:
    store = build(tmp_path / "out", buckets=False)
    sharding = TarJob(store=store, shards_dir=str(tmp_path / "tars"))
    with sharding.locks():
        sharding.run(sharding.plan(), Console(file=io.StringIO()))
    assert [path.parent.name for path in (tmp_path / "tars").glob("*/*.tar")] == ["bucket_none"]


MISTAKES = {
    (): "no encoder's contract.json",
    ("shard_size=0",): "shard_size=0",
    ("dataset=imagenet",): "store=npy",
    ("shards_dir=data/derived",): "shards_dir",
    ("members.t5=vae",): "vae",
    ("shards=3",): "shards",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_without_torch(arguments: tuple[str, ...], work: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "latentkit.shard", *arguments]
    where = work if arguments else tmp_path
    ended = subprocess.run(command, capture_output=True, text=True, cwd=where, timeout=60)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    assert ended.returncode == 2, lines
    assert len(lines) == 1, lines
    assert MISTAKES[arguments] in lines[0]
    assert " torch\n" not in ended.stderr
