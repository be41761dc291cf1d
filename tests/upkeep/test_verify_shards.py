"""Verify on latent shards: every way in which they can be wrong is named; encode redoes just the bad."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encode_process import Ended, run_verb
from PIL import Image
from recipes import photo
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from latentkit.stores import OutputLock

DATASET = ("dataset=folder", "dataset.root=photos", "store=shards", "output_dir=out")
TINY = ("encoders.sd_vae.size=32", "encoders.sd_vae.batch_size=4", "workers=1")
ENCODE = (*DATASET, "encoder=sd_vae", "weights=random", "shard_size=2", "max_failures=0.5", *TINY)
CLASSES = {"bird": 5, "cat": 6, "dog": 6}
SHARDS = 8
"""That have a file; a ninth would hold `BROKEN` alone."""
BROKEN = "dog/p5"
"""A picture that does not decode."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 pictures in 3 classes, two a shard, with the latents of the mirrored pictures."""
    work = tmp_path_factory.mktemp("made") / "work"
    for number, (name, index) in enumerate((n, i) for n, count in CLASSES.items() for i in range(count)):
        path = work / "photos" / name / f"p{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(number, 24, 30)).save(path)
    (work / "photos" / f"{BROKEN}.png").write_bytes(b"\x89PNG no picture")
    ended = run_verb("encode", *ENCODE, "flip=true", cwd=work)
    assert ended.returncode == 3, ended.stderr
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "work"))


def encode(work: Path) -> None:
    ended = run_verb("encode", *ENCODE, "flip=true", cwd=work)
    assert ended.returncode == 3, ended.stderr


def verify(work: Path, *arguments: str, kill_at: int | None = None) -> Ended:
    return run_verb("verify", *DATASET, "report=findings.json", *arguments, cwd=work, kill_at=kill_at)


def report(work: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((work / "findings.json").read_text())
    return values


def findings(work: Path) -> set[tuple[str, int | None]]:
    """(kind, number of the shard) of the last report."""
    return {
        (found["kind"], int(found["key"][6:14]) if found["key"] else None)
        for found in report(work)["findings"]
    }


def shard(work: Path, k: int) -> Path:
    return work / "out" / "sd_vae" / f"shard_{k:08d}.safetensors"


def sidecar(work: Path, k: int) -> Path:
    return work / "out" / ".latentkit" / "done" / "sd_vae" / f"shard_{k:08d}.jsonl"


def manifest(work: Path) -> Path:
    return work / "out" / "sd_vae" / "manifest.json"


def tree(work: Path) -> dict[str, bytes]:
    """Every file of the output but those that say when, and how fast, a run was."""
    own = {"summary.json", "run.json", "rates.json", "lock", "holder.json", "preview.png"}
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in sorted((work / "out").rglob("*"))
        if path.is_file() and path.name not in own and "set-aside" not in path.parts
    }


def rewrite(
    change: Callable[[dict[str, np.ndarray], dict[str, str]], object], *, ledgers: bool = False
) -> Callable[[Path, int], None]:
    """Write a shard anew with the safetensors package; `ledgers` lets everything else agree with it."""

    def spoil(work: Path, k: int) -> None:
        path = shard(work, k)
        tensors = load_file(path)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        change(tensors, metadata)
        save_file(tensors, path, metadata)
        if ledgers:
            digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
            head, _, rest = sidecar(work, k).read_text().partition("\n")
            head = json.dumps(json.loads(head) | {"sha256": digest, "bytes": size})
            sidecar(work, k).write_text(f"{head}\n{rest}")
            values = json.loads(manifest(work).read_text())
            values["shards"][k] |= {"sha256": digest, "bytes": size}
            manifest(work).write_text(json.dumps(values, indent=2) + "\n")

    return spoil


def with_keys(change: Callable[[list[str]], list[str]]) -> Callable[[dict, dict[str, str]], None]:
    def spoil(_: dict, metadata: dict[str, str]) -> None:
        metadata["keys"] = json.dumps(change(json.loads(metadata["keys"])))

    return spoil


def content(change: Callable[[bytes], bytes]) -> Callable[[Path, int], object]:
    return lambda work, k: shard(work, k).write_bytes(change(shard(work, k).read_bytes()))


def flip_bit(bytes_: bytes) -> bytes:
    return bytes_[:-1] + bytes([bytes_[-1] ^ 1])


def set_number(name: str, value: float) -> Callable[[dict[str, np.ndarray], dict[str, str]], None]:
    def spoil(tensors: dict[str, np.ndarray], _: dict[str, str]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[5] = value

    return spoil


def other_label(tensors: dict[str, np.ndarray], _: dict[str, str]) -> None:
    tensors["labels"] = (tensors["labels"] + [0, 1]) % 3


def instead(make: Callable[[Path], object]) -> Callable[[Path, int], None]:
    def spoil(work: Path, k: int) -> None:
        shard(work, k).unlink()
        make(shard(work, k))

    return spoil


WRONG: dict[str, tuple[set[str], Callable[[Path, int], object]]] = {
    "missing": ({"missing"}, lambda work, k: shard(work, k).unlink()),
    "empty": ({"size"}, content(lambda _: b"")),
    "cut": ({"size"}, content(lambda old: old[:-1])),
    "junk behind": ({"size"}, content(lambda old: old + b"\0")),
    "a bit": ({"changed"}, content(flip_bit)),
    "no header": ({"unreadable"}, content(lambda old: b"\xff" * len(old))),
    "a forged length": ({"unreadable"}, content(lambda old: (2**62).to_bytes(8, "little") + old[8:])),
    "a label": ({"labels", "changed"}, rewrite(other_label)),
    "a label, hidden": ({"labels"}, rewrite(other_label, ledgers=True)),
    "nan, hidden": ({"non-finite"}, rewrite(set_number("latents", np.nan), ledgers=True)),
    "inf in the mirrored, hidden": (
        {"non-finite"},
        rewrite(set_number("latents_flip", -np.inf), ledgers=True),
    ),
    "a key twice, hidden": ({"keys"}, rewrite(with_keys(lambda keys: [*keys[:-1], keys[0]]), ledgers=True)),
    "keys swapped, hidden": ({"keys"}, rewrite(with_keys(lambda keys: keys[::-1]), ledgers=True)),
    "a key too few, hidden": ({"keys"}, rewrite(with_keys(lambda keys: keys[:-1]), ledgers=True)),
    "no labels, hidden": ({"shape"}, rewrite(lambda tensors, _: tensors.pop("labels"), ledgers=True)),
    "no mirrored, hidden": ({"shape"}, rewrite(lambda tensors, _: tensors.pop("latents_flip"), ledgers=True)),
    "a row too few, hidden": (
        {"shape"},
        rewrite(lambda tensors, _: tensors.update(latents=tensors["latents"][:-1]), ledgers=True),
    ),
    "float32, hidden": (
        {"shape"},
        rewrite(lambda t, _: t.update(latents=t["latents"].astype(np.float32)), ledgers=True),
    ),
    "of another contract, hidden": (
        {"changed"},
        rewrite(lambda _, metadata: metadata.update(contract="0" * 64), ledgers=True),
    ),
    "its sidecar is gone": ({"unlisted"}, lambda work, k: sidecar(work, k).unlink()),
    "its sidecar is cut": (
        {"ledger"},
        lambda work, k: sidecar(work, k).write_bytes(sidecar(work, k).read_bytes()[:-40]),
    ),
    "its sidecar is empty": ({"ledger"}, lambda work, k: sidecar(work, k).write_bytes(b"")),
    "a pipe in its place": ({"size"}, instead(os.mkfifo)),
    "a folder in its place": ({"size"}, instead(Path.mkdir)),
}


def test_nothing_is_wrong_with_a_fresh_output_and_nothing_is_touched(work: Path) -> None:
    before = tree(work)
    for mode, shards in (("full", SHARDS), ("quick", 6)):
        ended = verify(work, f"mode={mode}")
        assert ended.returncode == 0, ended.stderr
        assert "nothing is wrong" in ended.stderr
        assert f"17 pictures, {shards} shards read" in ended.stderr
        assert "sd_vae: 16 whole, 1 in quarantine" in ended.stderr
        found = report(work)
        assert (found["ok"], found["pictures"], found["records"], found["arrays"]) == (True, 17, None, shards)
        assert found["bytes"] == shards * shard(work, 0).stat().st_size
    assert tree(work) == before
    assert not (work / "out" / ".latentkit" / "holder.json").exists()


def test_every_bad_shard_is_named_set_aside_and_only_it_is_encoded_again(work: Path) -> None:
    clean = tree(work)
    cases = list(WRONG.items())
    for batch in (cases[start : start + SHARDS] for start in range(0, len(cases), SHARDS)):
        spoilt = {SHARDS - 1 - place: case for place, case in enumerate(batch)}
        for k, (_, (_, spoil)) in spoilt.items():
            spoil(work, k)
        bad = {k: shard(work, k).read_bytes() for k in spoilt if shard(work, k).is_file()}
        untouched = {k: shard(work, k).stat().st_mtime_ns for k in set(range(SHARDS)) - spoilt.keys()}
        ended = verify(work)
        assert ended.returncode == 1, ended.stderr
        named = {k: {kind for kind, shard in findings(work) if shard == k} for k in range(SHARDS)}
        assert named == {k: set() for k in untouched} | {k: kinds for k, (_, (kinds, _)) in spoilt.items()}
        fixed = verify(work, "fix=true")
        assert fixed.returncode == 0, fixed.stderr
        assert f"set aside for the next encode: {len(batch)}; 0 findings are left" in fixed.stderr
        assert json.loads(manifest(work).read_text())["complete"] is False
        aside = work / "out" / ".latentkit" / "set-aside" / "sd_vae"
        assert {k: (aside / shard(work, k).name).read_bytes() for k in bad} == bad
        assert verify(work).returncode == 1
        assert findings(work) == {("incomplete", None)}
        encode(work)
        assert {k: shard(work, k).stat().st_mtime_ns for k in untouched} == untouched
        assert tree(work) == clean
        assert verify(work).returncode == 0
        shutil.rmtree(aside)


def test_swapped_shards(work: Path) -> None:
    clean = tree(work)
    one, two = shard(work, 3).read_bytes(), shard(work, 4).read_bytes()
    assert len(one) == len(two)
    shard(work, 3).write_bytes(two)
    shard(work, 4).write_bytes(one)
    assert verify(work).returncode == 1
    assert findings(work) == {("keys", 3), ("changed", 3), ("keys", 4), ("changed", 4)}
    assert verify(work, "fix=true").returncode == 0
    encode(work)
    assert tree(work) == clean


def test_a_picture_of_two_shards(work: Path) -> None:
    """The shard, its ledger and the manifest agree that it holds another shard's picture."""
    clean = tree(work)
    _, first, *_ = sidecar(work, 3).read_text().splitlines()
    key = json.loads(first)["key"]
    rewrite(with_keys(lambda keys: [key, *keys[1:]]), ledgers=True)(work, 4)
    head, _, *rest = sidecar(work, 4).read_text().splitlines()
    sidecar(work, 4).write_text("\n".join([head, first, *rest]) + "\n")
    assert verify(work).returncode == 1
    assert findings(work) == {("outdated", 4), ("incomplete", None)}
    encode(work)
    assert tree(work) == clean


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "no manifest"),
        (lambda path: path.write_text("[]"), "no manifest"),
        (edited(total=15), "total is not the sum"),
        (edited(kind="other"), "its kind is 'other'"),
        (edited(contract_sha256="0" * 64), "somebody edited it"),
        (edited(classes=["bird", "dog", "cat"]), "not what the ledgers say: classes"),
        (edited(quarantined=0, split="val"), "not what the ledgers say: quarantined, split"),
    ],
)
def test_a_manifest_that_is_not_right_is_made_anew(
    work: Path, edit: Callable[[Path], object], words: str
) -> None:
    clean = tree(work)
    edit(manifest(work))
    for mode in ("quick", "full"):
        assert verify(work, f"mode={mode}").returncode == 1
        (found,) = report(work)["findings"]
        assert (found["kind"], found["key"]) == ("manifest", None)
        assert words in found["detail"]
    assert verify(work, "fix=true").returncode == 0
    assert tree(work) == clean


def test_quick_reads_the_first_the_last_and_some_by_the_seed(work: Path) -> None:
    for path in (work / "out" / "sd_vae").glob("shard_*.safetensors"):
        path.write_bytes(flip_bit(path.read_bytes()))
    read = []
    for seed in (0, 0, 1):
        assert verify(work, "mode=quick", f"seed={seed}").returncode == 1
        read.append({k for kind, k in findings(work) if kind == "changed"})
        assert len(read[-1]) == report(work)["arrays"] == 6
        assert read[-1] >= {0, SHARDS - 1}
    assert read[0] == read[1] != read[2]
    assert verify(work).returncode == 1
    assert len(findings(work)) == SHARDS


def test_what_is_not_a_shard_s_fault_is_left_to_encode(work: Path) -> None:
    before = tree(work)
    (work / "photos" / "cat" / "p1.png").rename(work / "photos" / "cat" / "p1b.png")
    Image.fromarray(photo(99, 24, 30)).save(work / "photos" / "dog" / "p9.png")
    assert verify(work).returncode == 1
    assert findings(work) == {("outdated", 3), ("outdated", 8), ("incomplete", None)}
    assert verify(work, "fix=true").returncode == 0
    assert tree(work) == before
    encode(work)
    assert verify(work).returncode == 0
    (work / "out" / "quarantine.jsonl").unlink()
    assert verify(work).returncode == 1
    assert findings(work) == {("outdated", 8), ("incomplete", None)}
    assert f"1 are neither in it nor in quarantine, such as {BROKEN}" in json.dumps(report(work))


def test_a_run_that_was_stopped_is_not_complete(work: Path) -> None:
    before = tree(work)
    for said in (False, "yes"):
        edited(complete=said)(manifest(work))
        assert verify(work).returncode == 1
        assert findings(work) == {("incomplete", None)}
    encode(work)
    assert tree(work) == before
    for path in (shard(work, 3), sidecar(work, 3)):
        path.unlink()
    assert verify(work).returncode == 1
    assert {kind for kind, _ in findings(work)} == {"incomplete", "manifest"}
    assert "2 of 17" in json.dumps(report(work))


def test_a_class_without_a_picture(work: Path) -> None:
    for number in range(6):
        (work / "photos" / "dog" / f"p{number}.png").write_bytes(b"\x89PNG no picture")
    encode(work)
    assert verify(work).returncode == 1
    (found,) = report(work)["findings"]
    assert (found["kind"], found["detail"]) == ("classes", "dog has no picture")
    assert verify(work, "fix=true").returncode == 1


def test_strays_and_temporaries(work: Path) -> None:
    clean = tree(work)
    shutil.copy(shard(work, 0), shard(work, 17))
    shutil.copy(shard(work, 0), work / "out" / "sd_vae" / "copy.safetensors")
    (work / "out" / "sd_vae" / ".latentkit-1-2.tmp").write_bytes(b"half")
    (work / "out" / "sd_vae" / "latents_stats.pt").write_bytes(b"what LightningDiT leaves there")
    assert verify(work, "mode=quick").returncode == 1
    assert report(work)["counts"] == {"unlisted": 2, "temporary": 1}
    assert verify(work, "fix=true").returncode == 0
    (work / "out" / "sd_vae" / "latents_stats.pt").unlink()
    encode(work)
    assert tree(work) == clean


def test_contracts_and_other_collections(work: Path) -> None:
    claim = work / "out" / ".latentkit" / "contracts" / "sd_vae.json"
    good = claim.read_text()
    values = json.loads(good)
    values["contract"]["scaled"] = True
    claim.write_text(json.dumps(values))
    before = tree(work)
    assert verify(work, "fix=true").returncode == 1
    assert [found["kind"] for found in report(work)["findings"]] == ["contract"]
    assert tree(work) == before
    claim.write_text(good)
    ended = verify(work, "store.dataset=imagenet", "fix=true")
    assert ended.returncode == 2
    assert "holds dataset=folder, not imagenet" in ended.stderr
    ended = verify(work, "output_dir=nowhere")
    assert ended.returncode == 1
    assert ended.stderr == "latentkit: nowhere holds no latent shards: encode first, or set output_dir\n"
    assert not (work / "nowhere").exists()


def test_fix_waits_for_nobody(work: Path) -> None:
    before = tree(work)
    with OutputLock(work / "out"):
        assert verify(work, "fix=true").returncode == 1
    assert tree(work) == before


def test_a_killed_fix_is_finished_by_the_next(work: Path) -> None:
    for k in (0, 2):
        shard(work, k).write_bytes(shard(work, k).read_bytes()[:-1])
    edited(total=15)(manifest(work))
    clean = Path(shutil.copytree(work, work.parent / "clean" / "work"))
    ended = verify(clean, "fix=true")
    assert ended.returncode == 0, ended.stderr
    assert ended.changes is not None
    expected = tree(clean)
    for point in range(ended.changes):
        copy = Path(shutil.copytree(work, work.parent / f"copy{point}" / "work"))
        assert verify(copy, "fix=true", kill_at=point).returncode == -signal.SIGKILL
        assert verify(copy, "fix=true").returncode == 0
        assert tree(copy) == expected, f"killed at change {point}"


def test_an_older_contract_without_implied_values_is_the_same_contract(work: Path) -> None:
    for path in (work / "out" / ".latentkit" / "contracts" / "sd_vae.json", manifest(work)):
        values = json.loads(path.read_text())
        for name in ("decoder", "damaged_jpeg"):
            del values["contract"]["input"][name]
        path.write_text(json.dumps(values))
    expected = verify(work)
    encode(work)
    again = verify(work)
    assert "manifest" not in {kind for kind, _ in findings(work)}
    assert again.returncode == expected.returncode
