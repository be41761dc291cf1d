"""Verify: every way in which an output can be wrong is named, and the next encode redoes just that."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import library_tree
import numpy as np
from encode_process import Ended, kill_points, run_verb
from library_tree import STORE, encode, tree
from PIL import Image
from recipes import photo
from store_run import contract

from latentkit.stores import OutputLock, ShardStore


def verify(data: Path, *arguments: str, kill_at: int | None = None) -> Ended:
    return run_verb(
        "verify",
        *("dataset=crawlr", *STORE, "report=findings.json", *arguments),
        cwd=data.parent,
        kill_at=kill_at,
    )


def findings(data: Path) -> set[tuple[str, str | None, str | None]]:
    """(kind, encoder, key) of the last report."""
    report = json.loads((data.parent / "findings.json").read_text())
    assert sum(report["counts"].values()) == len(report["findings"])
    return {(found["kind"], found["encoder"], found["key"]) for found in report["findings"]}


def header(shape: str, descr: str = "<f2") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def with_number(value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        array = np.load(path)
        array.reshape(-1)[7] = value
        np.save(path, array)

    return change


def zero_tail(path: Path) -> None:
    """Everything behind the header, as if only the first sector had reached the disk."""
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


BAD_FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("missing", lambda path: path.unlink()),
    "empty": ("unreadable", lambda path: path.write_bytes(b"")),
    "no npy": ("unreadable", lambda path: path.write_bytes(b"<html>" * 40)),
    "cut in the header": ("unreadable", lambda path: path.write_bytes(path.read_bytes()[:50])),
    "a folder": ("missing", lambda path: (path.unlink(), path.mkdir())),
    "a pipe": ("unreadable", lambda path: (path.unlink(), os.mkfifo(path))),
    "pickled": ("unreadable", pickled),
    "cut": ("size", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    "junk behind": ("size", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
    "another shape": ("shape", lambda path: np.save(path, np.ones((4, 2, 3), np.float16))),
    "another type": ("shape", lambda path: np.save(path, np.ones((4, 3, 2), np.int16))),
    "forged": ("shape", lambda path: path.write_bytes(header("(999999999, 999999999)") + bytes(48))),
    "forged to fit nothing": ("shape", lambda path: path.write_bytes(header("(4, 3, 2, 99999999999)"))),
    "zeros": ("zeros", zero_tail),
    "nan": ("non-finite", with_number(float("nan"))),
    "inf": ("non-finite", with_number(float("inf"))),
    "-inf": ("non-finite", with_number(float("-inf"))),
}


def test_nothing_is_wrong_with_a_fresh_output_and_nothing_is_touched(data: Path) -> None:
    before = tree(data)
    ended = verify(data)
    assert ended.returncode == 0, ended.stderr
    assert "nothing is wrong" in ended.stderr
    assert "vae: 11 whole, 1 in quarantine" in ended.stderr
    report = json.loads((data.parent / "findings.json").read_text())
    assert (report["ok"], report["pictures"], report["arrays"]) == (True, 12, 44)
    sizes = [path.stat().st_size for path in (data / "derived").rglob("*.npy")]
    assert report["bytes"] == sum(sizes)
    assert tree(data) == before
    assert not (data / "derived" / ".latentkit" / "holder.json").exists()


def test_the_largest_float16_is_a_number(data: Path) -> None:
    with_number(65504.0)(data / "derived" / "vae_latents" / "p00.npy")
    with_number(-65504.0)(data / "derived" / "vae_latents" / "p01.npy")
    assert verify(data).returncode == 0


def test_every_bad_file_is_named_set_aside_and_encoded_again(data: Path) -> None:
    clean = tree(data)
    folder = data / "derived" / "vae_latents"
    keys = [f"p{number:02d}" for number in range(12) if number != 5]
    cases = list(BAD_FILES.items())
    for batch in (cases[: len(keys)], cases[len(keys) :]):
        for key, (_, (_, spoil)) in zip(keys, batch, strict=False):
            spoil(folder / f"{key}.npy")
        ended = verify(data)
        assert ended.returncode == 1, ended.stderr
        assert findings(data) == {
            (kind, "vae", key) for key, (_, (kind, _)) in zip(keys, batch, strict=False)
        }
        fixed = verify(data, "fix=true")
        assert fixed.returncode == 0, fixed.stderr
        assert f"set aside for the next encode: {len(batch)}" in fixed.stderr
        spoilt = keys[: len(batch)]
        assert verify(data).returncode == 0
        records = (data / "derived" / "approved_image_dataset.jsonl").read_text().splitlines()
        for record in map(json.loads, records):
            assert ("vae" in record["encoders"]) == (record["image_id"] not in spoilt)
        state = json.loads((data.parent / "findings.json").read_text())["encoders"][-1]
        assert (state["encoder"], state["done"], state["incomplete"]) == (
            "vae",
            11 - len(batch),
            len(batch),
        )
        untouched = {path: path.stat().st_mtime_ns for path in (data / "derived" / "dino").glob("*.npy")}
        for path in folder.iterdir():
            if path.is_dir():
                path.rmdir()
        encode(data)
        assert untouched == {path: path.stat().st_mtime_ns for path in untouched}
        shutil.rmtree(data / "derived" / ".latentkit" / "set-aside")
        assert tree(data) == clean


def test_all_of_a_picture_is_done_again_when_one_of_two_outputs_is_bad(data: Path) -> None:
    spoilt = (data / "derived" / "dino_patches" / "p03.npy").read_bytes()[:-4]
    (data / "derived" / "dino_patches" / "p03.npy").write_bytes(spoilt)
    assert verify(data, "fix=true").returncode == 0
    assert findings(data) == {("size", "dino", "p03")}
    aside = data / "derived" / ".latentkit" / "set-aside"
    assert (aside / "dino_patches" / "p03.npy").read_bytes() == spoilt
    assert sorted(str(path.relative_to(aside)) for path in aside.rglob("*.npy")) == [
        "dino/p03.npy",
        "dino_patches/p03.npy",
    ]


def test_a_whole_array_of_another_size_than_the_ledger_says(data: Path) -> None:
    """A latent whose sides follow the picture: only the ledger knows which fits."""
    ledger = data / "derived" / ".latentkit" / "done" / "vae.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    lines[2]["bytes"] += 2
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verify(data).returncode == 1
    assert findings(data) == {("changed", "vae", "p02")}


RECORDS: dict[str, tuple[str, dict[str, object]]] = {
    "p00": ("record", {"caption": 5}),
    "p01": ("record", {"width": "640"}),
    "p02": ("record", {"format_version": 1}),
    "p03": ("record", {"encoders": "vae"}),
    "p04": ("mask", {"t5_attention_mask": [1, 1, 1, 1, 2]}),
    "p06": ("mask", {"t5_attention_mask": [0, 1, 1, 0, 0]}),
    "p07": ("mask", {"t5_attention_mask": [1, 1, 1, 0]}),
    "p08": ("claim", {"encoders": ["dino", "sd_vae", "text", "vae"]}),
    "p09": ("record", {"aspect_bucket": "8x8"}),
    "p10": ("mask", {"t5_attention_mask": "11100"}),
    "p11": ("record", {"height": 0}),
}


def test_every_wrong_field_is_named_and_mended(data: Path) -> None:
    path = data / "derived" / "approved_image_dataset.jsonl"
    good = path.read_text()
    records = [json.loads(line) for line in good.splitlines()]
    lines = [json.dumps(record | RECORDS[record["image_id"]][1]) for record in records]
    stray = json.dumps({"image_path": "data/approved/stray.jpg", "caption": "no such picture"})
    path.write_text("\n".join([*lines, "{cut in the midd", "[]", lines[0], stray]) + "\n")
    assert verify(data).returncode == 1
    expected = {(kind, None, key) for key, (kind, _) in RECORDS.items()}
    expected |= {("line", None, None), ("duplicate", None, "p00"), ("orphan", None, "stray")}
    assert findings(data) == expected
    report = json.loads((data.parent / "findings.json").read_text())
    assert report["counts"]["line"] == 2
    fixed = verify(data, "fix=true")
    assert fixed.returncode == 1  # the orphan is left, for prune
    assert "1 findings are left" in fixed.stderr
    assert "latentkit.prune" in fixed.stderr
    kept = (data / "derived" / "approved_image_dataset.jsonl.bad").read_text()
    assert "{cut in the midd" in kept
    assert run_verb("prune", "dataset=crawlr", *STORE, cwd=data.parent).returncode == 0
    assert verify(data).returncode == 0
    after = [json.loads(line) for line in path.read_text().splitlines()]
    for old, new in zip(records, after, strict=True):
        assert {name for name in old if old[name] != new[name]} <= {"caption"}


def test_contracts(data: Path) -> None:
    derived = data / "derived"
    edited = json.loads((derived / "vae_latents" / "contract.json").read_text())
    edited["contract"]["scaled"] = True
    (derived / "vae_latents" / "contract.json").write_text(json.dumps(edited))
    (derived / "t5_hidden" / "contract.json").unlink()
    (derived / "dino_old").mkdir()
    shutil.copy(derived / "dino" / "contract.json", derived / "dino_old")
    before = tree(data)
    ended = verify(data)
    assert ended.returncode == 1
    report = json.loads((data.parent / "findings.json").read_text())
    details = {Path(found["path"]).parent.name: found["detail"] for found in report["findings"]}
    assert set(details) == {"vae_latents", "t5_hidden", "dino_old"}
    assert "somebody edited it" in details["vae_latents"]
    assert "missing, beside 11 arrays" in details["t5_hidden"]
    assert "dino's, whose folder is dino" in details["dino_old"]
    fixed = verify(data, "fix=true")
    assert fixed.returncode == 1
    assert {name: content for name, content in tree(data).items() if name in before} == before


def test_what_is_gone_or_was_not_checked_is_not_whole(data: Path) -> None:
    clean = tree(data)
    derived = data / "derived"
    shutil.rmtree(derived / "t5_hidden")
    original = (derived / "vae_latents" / "contract.json").read_bytes()
    (derived / "vae_latents" / "contract.json").write_bytes(original.replace(b"vae", b"VAE"))
    pickled(derived / "vae_latents" / "p00.npy")
    (derived / "vae_latents" / "p01.npy").unlink()
    (derived / "vae_latents" / "p01.npy").mkdir()
    ended = verify(data)
    assert ended.returncode == 1
    keys = [f"p{number:02d}" for number in range(12) if number != 5]
    expected = {("missing", "text", key) for key in keys}
    assert findings(data) == expected | {("contract", None, None), ("missing", "vae", "p01")}
    lines = [line.strip() for line in ended.stderr.splitlines()]
    assert "text: 0 whole, 11 bad, 1 in quarantine" in lines
    assert "vae: 0 whole, 1 bad, 1 in quarantine, 10 not checked" in lines
    assert "missing: data/derived/t5_hidden/p00.npy" in lines
    (derived / "vae_latents" / "contract.json").write_bytes(original)
    assert verify(data, "fix=true").returncode == 0
    assert ("unreadable", "vae", "p00") in findings(data)
    encode(data)
    shutil.rmtree(derived / ".latentkit" / "set-aside")
    assert tree(data) == clean


def test_a_field_that_is_not_known_yet_is_not_wrong(data: Path) -> None:
    records = data / "derived" / "approved_image_dataset.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[0] |= {"aspect_bucket": None, "width": None}
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verify(data).returncode == 1
    assert findings(data) == {("record", None, "p00")}
    assert verify(data, "fix=true").returncode == 0
    for path in data.glob("derived/*/"):
        shutil.rmtree(path)
    lines = [{"image_path": line["image_path"], "aspect_bucket": None, "width": None} for line in lines]
    lines[1]["width"] = "640"
    lines[2]["t5_attention_mask"] = [0, 1]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = verify(data)
    assert ended.returncode == 1
    assert findings(data) == {("unencoded", None, "p01"), ("unencoded", None, "p02")}
    assert "the next encode" in ended.stderr


def test_orphans_links_strays_temporaries_and_stage_1(data: Path) -> None:
    derived = data / "derived"
    (data / "raw" / "p03").unlink()
    np.save(derived / "dino" / "stray.npy", np.ones(9, np.float32))
    (derived / "dino" / ".latentkit-1-2.tmp").write_bytes(b"half")
    np.save(derived / "dino" / "p05.npy", np.ones(9, np.float32))  # in quarantine, not in the ledger
    records = derived / "approved_image_dataset.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[0] |= {"dinov3_embedding": [0.5] * 4}
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verify(data).returncode == 1
    found = findings(data)
    assert found >= {
        ("link", None, None),
        ("orphan", "dino", "stray"),
        ("orphan", "vae", "p03"),
        ("orphan", None, "p03"),
        ("temporary", None, None),
        ("unlisted", "dino", "p05"),
        ("stage1", None, "p00"),
    }
    assert {kind for kind, _, _ in found} == {"link", "orphan", "temporary", "unlisted", "stage1"}
    assert verify(data, "fix=true").returncode == 1
    assert run_verb("prune", "dataset=crawlr", *STORE, cwd=data.parent).returncode == 0
    assert verify(data).returncode == 1
    assert findings(data) == {("stage1", None, "p00")}


def test_what_a_killed_run_left_is_counted_as_done(tmp_path: Path) -> None:
    """Journals that were not folded are ledgers too; what is still to be done is incomplete, not wrong."""
    data = library_tree.build(tmp_path / "work")
    for name in ("done", "journal"):
        (data / "derived" / ".latentkit" / name).mkdir(exist_ok=True)
    ledger = data / "derived" / ".latentkit" / "done" / "vae.jsonl"
    ledger.rename(data / "derived" / ".latentkit" / "journal" / "vae.0.jsonl")
    for number in (20, 21):
        (data / "raw" / f"p{number}").write_bytes(b"photo %d" % number)
        (data / "approved" / f"p{number}.jpg").symlink_to(f"../raw/p{number}")
    ended = verify(data)
    assert ended.returncode == 0, ended.stderr
    assert "vae: 11 whole, 1 in quarantine, 2 incomplete" in ended.stderr
    records = data / "derived" / "approved_image_dataset.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[1:]))
    assert verify(data).returncode == 1
    assert findings(data) == {("unrecorded", None, "p00")}


def test_what_was_made_of_another_caption_or_picture_is_incomplete(data: Path) -> None:
    derived = data / "derived"
    records = derived / "approved_image_dataset.jsonl"
    records.write_text(records.read_text().replace('"photo number 1"', '"another"'))
    ledger = derived / ".latentkit" / "done" / "dino.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    for entry in entries:
        entry["sha256"] = {"p02": "ab" * 32, "p03": ""}.get(entry["key"], entry["sha256"])
    ledger.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    ended = verify(data)
    assert ended.returncode == 0, ended.stderr
    for encoder in ("dino", "text", "vae"):
        assert f"{encoder}: 10 whole, 1 in quarantine, 1 incomplete" in ended.stderr


def test_fix_waits_for_nobody(data: Path) -> None:
    before = tree(data)
    with OutputLock(data / "derived"):
        ended = verify(data, "fix=true")
    assert ended.returncode == 1
    assert f"pid {os.getpid()}" in ended.stderr
    assert tree(data) == before


def test_a_killed_fix_is_finished_by_the_next(data: Path) -> None:
    for number in (1, 3, 4):
        (data / "derived" / "dino_patches" / f"p{number:02d}.npy").write_bytes(b"spoilt")
    clean = Path(shutil.copytree(data, data.parent.parent / "clean" / "data", symlinks=True))
    ended = verify(clean, "fix=true")
    assert ended.returncode == 0
    assert ended.changes is not None
    for point in kill_points(ended.changes, 5):
        copy = Path(shutil.copytree(data, data.parent.parent / f"copy{point}" / "data", symlinks=True))
        assert verify(copy, "fix=true", kill_at=point).returncode == -signal.SIGKILL
        assert verify(copy, "fix=true").returncode == 0
        assert tree(copy) == tree(clean), f"killed at change {point}"


def test_quick_looks_at_names_and_sizes(data: Path) -> None:
    latents = data / "derived" / "vae_latents"
    with_number(float("nan"))(latents / "p00.npy")
    assert verify(data, "mode=quick").returncode == 0
    (latents / "p01.npy").write_bytes((latents / "p01.npy").read_bytes()[:-1])
    assert verify(data, "mode=quick").returncode == 1
    assert findings(data) == {("changed", "vae", "p01")}
    assert verify(data).returncode == 1
    assert findings(data) == {("size", "vae", "p01"), ("non-finite", "vae", "p00")}
    ended = verify(data, "mode=fast")
    assert ended.returncode == 2
    assert ended.stderr == "latentkit: mode=fast: choose one of full, quick\n"


def test_an_output_that_is_not_there(data: Path) -> None:
    ended = verify(data, "output_dir=nowhere")
    assert ended.returncode == 1
    assert "nowhere does not exist" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (data.parent / "nowhere").exists()


def test_where_nothing_can_be_verified(data: Path) -> None:
    (data.parent / "empty").mkdir()
    shards = ShardStore(root=str(data.parent / "sharded"), shard_size=4, dataset="crawlr")
    with contextlib.chdir(data.parent), OutputLock(shards.root):
        shards.open({"dino": contract("dino")})
        shards.finish(library_tree.Photos(), complete=False)
    for folder, reason in (
        ("empty", "holds no encoder's contract.json"),
        ("sharded", "in shards: give store=shards"),
    ):
        ended = verify(data, f"output_dir={folder}")
        assert ended.returncode == 1
        assert reason in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_a_report_needs_its_folder(data: Path) -> None:
    ended = run_verb("verify", "dataset=crawlr", *STORE, "report=nowhere/findings.json", cwd=data.parent)
    assert ended.returncode == 2
    assert "there is no folder nowhere" in ended.stderr
    assert not (data.parent / "nowhere").exists()


def test_the_real_encoders_outputs(tmp_path: Path) -> None:
    """Encoded, verified, spoilt, mended and encoded again: the same bytes."""
    data = tmp_path / "work" / "data"
    for folder in ("raw", "approved"):
        (data / folder).mkdir(parents=True)
    for number, size in enumerate([(64, 64), (48, 80), (80, 48)]):
        Image.fromarray(photo(number, *size)).save(data / "raw" / f"p{number}", "png")
        (data / "approved" / f"p{number}.png").symlink_to(f"../raw/p{number}")
        (data / "approved" / f"p{number}.txt").write_text(f"photo number {number}")
    run = ("dataset=crawlr", "weights=random")
    assert run_verb("encode", *run, cwd=data.parent).returncode == 0
    assert run_verb("verify", "report=findings.json", cwd=data.parent).returncode == 0
    clean = {path: path.read_bytes() for path in (data / "derived").rglob("*.npy")}
    assert len(clean) == 9
    latents, hidden = data / "derived" / "vae_latents", data / "derived" / "t5_hidden"
    shutil.copy(latents / "p1.npy", latents / "p2.npy")  # whole, but of another picture's bucket
    content = (hidden / "p0.npy").read_bytes()
    (hidden / "p0.npy").write_bytes(content[:4096] + bytes(len(content) - 4096))
    embedding = np.load(data / "derived" / "dinov3" / "p1.npy")
    embedding[1000] = np.nan
    np.save(data / "derived" / "dinov3" / "p1.npy", embedding)
    assert run_verb("verify", "fix=true", "report=findings.json", cwd=data.parent).returncode == 0
    assert findings(data) == {
        ("shape", "flux_vae", "p2"),
        ("zeros", "t5", "p0"),
        ("non-finite", "dinov3", "p1"),
    }
    assert run_verb("encode", *run, cwd=data.parent).returncode == 0
    summary = json.loads((data / "derived" / "summary.json").read_text())
    assert [encoder["done"] for encoder in summary["encoders"]] == [1, 1, 1]
    assert run_verb("verify", cwd=data.parent).returncode == 0
    assert {path: path.read_bytes() for path in clean} == clean
