"""Stage 1 to Stage 2, as a user runs it, against what the old records say when they are read by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from stage1_library import MASK, RECORDS, embedding, migrate, numbers, records, stage1, times, tree, write

from latentkit.encoders import Contract
from latentkit.prediction.results import Encoded
from latentkit.sources.source import Fingerprint
from latentkit.stores import NpyStore, OutputLock
from latentkit.stores.open import npy_outputs


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work" / "data" / "derived").mkdir(parents=True)
    return tmp_path / "work"


def encoded_by_us(root: Path, key: str) -> None:
    """Numbers of one picture under a recorded contract, as a run publishes them."""
    contract = Contract(
        encoder="dinov3",
        model="somebody/dinov3",
        revision=None,
        weights="none",
        pretrained=True,
        input={},
        stored="cls",
        outputs={"embeddings": {"shape": [1024], "dtype": "float32"}},
        precision="32-true",
    )
    store = NpyStore(root=str(root), records=Path(RECORDS).name)
    ours = np.array(numbers(50), np.float32)[None]
    with OutputLock(root):
        store.open({"dinov3": contract})
        store._held["dinov3"] = set()
        store.write(Encoded("dinov3", [0], [key], {"embeddings": ours}, [{}], [Fingerprint("00" * 32)]))


def test_embeddings_become_files_and_all_else_survives(work: Path) -> None:
    odd = (
        b'{"caption": "na\xc3\xafve \\u00e9", "dinov3_embedding": [%s], "exact": [1.10, 1e400, -0, 2E+2], '
        b'"image_path":"data/approved/b.jpg", "big": 123456789012345678901234567890.25, "x": {"y": [ ]}}'
    ) % ", ".join(map(repr, numbers(1))).encode()
    old = write(work, stage1("c", 2, width=600, height=400), odd, stage1("a", 0, width=500, height=500))
    ended = migrate(work)
    assert ended.returncode == 0, ended.stderr

    lines = (work / RECORDS).read_bytes().splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == ["a", "b", "c"]
    for seed, key in enumerate("abc"):
        assert embedding(work, key).dtype == np.float32
        assert embedding(work, key).tolist() == numbers(seed)
    for text in (b"[1.10, 1e400, -0, 2E+2]", b"123456789012345678901234567890.25", b'"na\xc3\xafve \\u00e9"'):
        assert text in lines[1]
    assert records(work)["c"] == {
        "image_path": "data/approved/c.jpg",
        "caption": "is c",
        "width": 600,
        "height": 400,
        "t5_attention_mask": MASK,
        "image_id": "c",
        "aspect_bucket": "1216x832",
        "format_version": 2,
        "encoders": ["dinov3"],
    }
    assert "aspect_bucket" not in records(work)["b"]
    assert (work / f"{RECORDS}.stage1").read_bytes() == old
    claim = json.loads((work / "data/derived/dinov3/contract.json").read_text())
    contract = Contract.from_dict(claim["contract"])
    assert not contract.recorded
    assert contract.sha256 == claim["sha256"]
    assert '"encoder=[flux_vae,t5]" leaves them' in ended.stderr

    before = times(work)
    again = migrate(work)
    assert again.returncode == 0, again.stderr
    assert "did not change" in again.stderr
    assert times(work) == before


def test_a_dry_run_counts_and_touches_nothing(work: Path) -> None:
    write(work, stage1("a", 0), stage1("b", 1), stage1("c", 2, dinov3_embedding=[1.0]))
    before = tree(work)
    ended = migrate(work, "dry_run=true")
    assert ended.returncode == 3
    assert "3 records: 2 inline embeddings to files, 1 left" in ended.stderr
    assert tree(work) == before
    assert sorted(path.name for path in (work / "data" / "derived").iterdir()) == [Path(RECORDS).name]


def test_what_cannot_be_moved_stays_as_it_is_and_is_named(work: Path) -> None:
    folder = work / "data/derived/dinov3"
    folder.mkdir()
    np.save(folder / "same.npy", np.array(numbers(20), np.float32))
    np.save(folder / "other.npy", np.array(numbers(99), np.float32))
    np.save(folder / "double.npy", np.array(numbers(22)))
    kept = {
        "short": stage1("short", 0, dinov3_embedding=numbers(0)[1:]),
        "nan": stage1("nan", 0, dinov3_embedding=[float("nan"), *numbers(0)[1:]]),
        "overflow": stage1("overflow", 0, dinov3_embedding=[1e39, *numbers(0)[1:]]),
        "huge": stage1("huge", 0, dinov3_embedding=[10**400, *numbers(0)[1:]]),
        "texts": stage1("texts", 0, dinov3_embedding=list(map(str, numbers(0)))),
        "bits": stage1("bits", 0, dinov3_embedding=[True, *numbers(0)[1:]]),
        "../../out": stage1("p", 0, image_id="../../out"),
        "nul\0": stage1("p", 0, image_id="nul\0"),
        "l" * 300: stage1("p", 0, image_id="l" * 300),
        "other": stage1("other", 21),
        "double": stage1("double", 22),
    }
    stage2 = b'{"image_path": "data/approved/two.jpg", "image_id": "two", "format_version": 2}'
    bad = [b"{not json", b'{"caption": "of nothing"}', b"[1, 2]"]
    cut = stage1("cut", 3)[:9000]
    moved = [stage1("same", 20), stage2, stage1("twice", 4), stage1("twice", 5)]
    content = write(work, *bad, *kept.values(), *moved, b"")[:-1] + cut
    (work / RECORDS).write_bytes(content)
    ended = migrate(work)
    assert ended.returncode == 3, ended.stderr

    lines = (work / RECORDS).read_bytes().splitlines()
    assert set(kept.values()) <= set(lines)
    assert len(lines) == len(kept) + 3
    for number, key in enumerate(kept, 4):
        assert f"stays at Stage 1: line {number}: {key!r}: " in ended.stderr
    for reason in ("1,023 numbers", "not finite", "no number", "cannot be a file's name", "other numbers"):
        assert reason in ended.stderr
    assert (work / f"{RECORDS}.bad").read_bytes().splitlines() == [*bad, cut]
    assert "line 1 is bad" in ended.stderr
    assert embedding(work, "same").tolist() == numbers(20)
    assert embedding(work, "other").tolist() == numbers(99)
    assert embedding(work, "double").dtype == np.float64
    assert embedding(work, "twice").tolist() == numbers(5)
    assert sorted(path.stem for path in folder.glob("**/*.npy")) == ["double", "other", "same", "twice"]
    assert not list(work.parent.glob("**/out.npy"))
    assert records(work)["two"].get("encoders") is None
    assert (work / f"{RECORDS}.stage1").read_bytes() == content

    before = tree(work)
    assert migrate(work).returncode == 3
    assert tree(work) == before

    mended = [stage1("short", 7) if b"short" in line else line for line in lines]
    old = write(work, *mended)
    assert migrate(work).returncode == 3
    assert embedding(work, "short").tolist() == numbers(7)
    assert (work / f"{RECORDS}.stage1").read_bytes() == content
    assert (work / f"{RECORDS}.stage1.2").read_bytes() == old


def test_a_later_stage_2_record_does_not_lose_the_embedding_of_an_earlier_line(work: Path) -> None:
    write(work, stage1("a", 0), b'{"image_path": "data/approved/a.jpg", "image_id": "a", "new": 1}')
    ended = migrate(work)
    assert ended.returncode == 0, ended.stderr
    assert embedding(work, "a").tolist() == numbers(0)
    assert records(work)["a"]["new"] == 1
    assert records(work)["a"]["encoders"] == ["dinov3"]


def test_arrays_of_an_earlier_script_get_a_contract_and_ledger_lines(work: Path) -> None:
    root = work / "data" / "derived"
    for folder in ("dinov3", "vae_latents", "t5_hidden"):
        (root / folder).mkdir()
    for key in ("a", "b", "orphan"):
        np.save(root / "dinov3" / f"{key}.npy", np.zeros(1024, np.float32))
        np.save(root / "vae_latents" / f"{key}.npy", np.zeros((16, 104, 152), np.float16))
        np.save(root / "t5_hidden" / f"{key}.npy", np.zeros((77, 1024), np.float16))
    np.save(root / "dinov3" / "c.npy", np.zeros(768, np.float32))
    (root / "t5_hidden" / "c.npy").write_bytes(b"")
    plain = {"caption": "x", "t5_attention_mask": MASK}
    write(
        work,
        *(
            json.dumps({"image_path": f"data/approved/{key}.jpg", **plain, **more}).encode()
            for key, more in {
                "a": {"width": 600, "height": 400},
                "b": {"aspect_bucket": "1024x1024", "t5_attention_mask": [1, 0, 1] + [0] * 74},
                "c": {},
            }.items()
        ),
    )
    ended = migrate(work)
    assert ended.returncode == 3, ended.stderr
    assert "arrays that were there: 2 of dinov3, 1 of flux_vae, 1 of t5" in ended.stderr
    for name in ("vae_latents/b", "t5_hidden/b", "dinov3/c", "t5_hidden/c"):
        assert f"left out: data/derived/{name}.npy: " in ended.stderr
    assert "a latent of 1216x832, its record says 1024x1024" in ended.stderr
    assert {key: record.get("encoders") for key, record in records(work).items()} == {
        "a": ["dinov3", "flux_vae", "t5"],
        "b": ["dinov3"],
        "c": None,
    }
    assert {name: output.contract.recorded for name, output in npy_outputs(root).items()} == {
        "dinov3": False,
        "flux_vae": False,
        "t5": False,
    }
    lines = [json.loads(line) for line in (root / ".latentkit/done/t5.jsonl").read_text().splitlines()]
    assert lines[0]["facts"] == {"attention_mask_length": 5, "max_length": 77, "cut": False}
    before = tree(work)
    assert migrate(work).returncode == 3
    assert tree(work) == before


def test_under_a_recorded_contract_what_was_encoded_stays(work: Path) -> None:
    root = work / "data" / "derived"
    encoded_by_us(root, "a")
    claim = (root / "dinov3" / "contract.json").read_bytes()
    write(work, stage1("a", 0), stage1("b", 1))
    ended = migrate(work)
    assert ended.returncode == 3, ended.stderr
    assert "encode encoder=dinov3, then migrate again" in ended.stderr
    assert embedding(work, "a").tolist() == numbers(50)
    assert "dinov3_embedding" not in records(work)["a"]
    assert records(work)["b"]["dinov3_embedding"] == numbers(1)
    assert not (root / "dinov3" / "b.npy").exists()
    assert "line 2: 'b': data/derived/dinov3 has a recorded contract" in ended.stderr
    assert (root / "dinov3" / "contract.json").read_bytes() == claim


@pytest.mark.parametrize("first", [[], [float("nan")]])
def test_an_embedding_that_cannot_be_used_is_dropped_once_its_picture_is_encoded(
    work: Path, first: list[float]
) -> None:
    unusable = first + numbers(0)[1:]
    content = write(
        work, stage1("a", 0, dinov3_embedding=unusable), stage1("b", 0, dinov3_embedding=unusable)
    )
    assert migrate(work).returncode == 3
    root = work / "data" / "derived"
    encoded_by_us(root, "a")
    ended = migrate(work)
    assert ended.returncode == 3, ended.stderr
    assert "1 of them cannot be used: dropped" in ended.stderr
    assert "line 2: 'b': the embedding" in ended.stderr
    assert "dinov3_embedding" not in records(work)["a"]
    assert records(work)["a"]["encoders"] == ["dinov3"]
    assert embedding(work, "a").tolist() == numbers(50)
    assert (work / f"{RECORDS}.stage1").read_bytes() == content
    encoded_by_us(root, "b")
    assert migrate(work).returncode == 0
    assert "dinov3_embedding" not in records(work)["b"]


def test_a_bucket_that_is_null_is_not_known_yet(work: Path) -> None:
    write(
        work, stage1("a", 0, aspect_bucket=None, width=1024, height=1024), stage1("b", 1, aspect_bucket=None)
    )
    assert migrate(work).returncode == 0
    assert records(work)["a"]["aspect_bucket"] == "1024x1024"
    assert records(work)["b"]["aspect_bucket"] is None


def test_no_records_is_wrong_usage(work: Path) -> None:
    ended = migrate(work)
    assert ended.returncode == 2
    assert "give output_dir=FOLDER" in ended.stderr
    assert list((work / "data" / "derived").iterdir()) == []
