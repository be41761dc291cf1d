"""The npy store: what a trainer finds on the disk, what is encoded again, what is refused."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import library_tree
import numpy as np
import pytest
from store_run import Pictures, contract, failure, make, missing, numbers, run, tree

from latentkit.encoders.contract import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.sources import Item
from latentkit.stores import NpyStore, Quarantine
from latentkit.stores.open import open_output

GOOD = [i for i in range(60) if i not in (7, 33)]


def records(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]


def test_arrays_open_with_numpy(tmp_path: Path) -> None:
    run(tmp_path, "npy", encoders=("vae", "text", "dino"))
    source = Pictures()
    for index in GOOD:
        key = source[index].key
        for folder, encoder, output in (
            ("vae_latents", "vae", "latents"),
            ("text", "text", "hidden"),
            ("dino", "dino", "cls"),
            ("dino_patches", "dino", "patches"),
        ):
            array = np.load(tmp_path / folder / f"{key}.npy", allow_pickle=False)
            np.testing.assert_array_equal(array, numbers(encoder, source, index, output))
    assert not (tmp_path / "text_attention_mask").exists()
    store = make("npy", tmp_path)
    assert store.counts("vae") == (58, 58 * (128 + 4 * 3 * 2 * 2))
    assert store.contract("dino") == contract("dino")
    assert sorted(open_output(tmp_path / "dino").read(source[3].key)) == ["cls", "patches"]


def test_records_say_what_is_there(tmp_path: Path) -> None:
    run(tmp_path, "npy")
    found = records(tmp_path)
    source = Pictures()
    assert [record["image_id"] for record in found] == sorted(source[i].key for i in GOOD)
    assert list(found[0].items()) == [
        ("image_path", "photos/0.jpg"),
        ("caption", "photo № 0"),
        ("width", 640),
        ("height", 480),
        ("t5_attention_mask", [1, 0, 0, 0, 0]),
        ("image_id", "set/000"),
        ("aspect_bucket", "1024x1024"),
        ("format_version", 2),
        ("label", 0),
        (
            "facts",
            {
                "text": {"attention_mask_length": 1, "max_length": 5},
                "vae": {"aspect_bucket": "1024x1024"},
            },
        ),
        ("encoders", ["text", "vae"]),
    ]


def test_nothing_is_encoded_twice_and_planning_touches_nothing(tmp_path: Path) -> None:
    store = make("npy", tmp_path / "out")
    assert missing(store, "vae", Pictures()) == list(range(60))
    assert not (tmp_path / "out").exists()
    run(tmp_path / "out", "npy")
    before = tree(tmp_path / "out")
    assert missing(store, "vae", Pictures()) == []
    assert tree(tmp_path / "out") == before
    run(tmp_path / "out", "npy")
    assert tree(tmp_path / "out") == before


def test_what_changed_or_is_gone_is_encoded_again(tmp_path: Path) -> None:
    run(tmp_path, "npy")
    source = Pictures(edits={5: b"other bytes", 7: b"repaired"}, broken=())
    (tmp_path / "vae_latents" / f"{source[9].key}.npy").unlink()
    (tmp_path / "vae_latents" / f"{source[11].key}.npy").write_bytes(b"short")
    assert missing(make("npy", tmp_path), "vae", source) == [5, 7, 9, 11]
    assert missing(make("npy", tmp_path), "vae", source, retry=True) == [5, 7, 9, 11, 33]
    run(tmp_path, "npy", source, retry=True)
    assert not (tmp_path / "quarantine.jsonl").exists()
    run(tmp_path / "clean", "npy", source)
    clean = tree(tmp_path / "clean")
    assert {name: content for name, content in tree(tmp_path).items() if "clean/" not in name} == clean


def test_a_stopped_run_leaves_records_of_what_it_did(tmp_path: Path) -> None:
    run(tmp_path, "npy", stop_after=3)
    assert len(records(tmp_path)) == sum(i not in (7, 33) for i in range(16))
    assert records(tmp_path)[0]["encoders"] == ["vae"]


def test_processes_share_the_plan(tmp_path: Path) -> None:
    source, contracts = Pictures(), {"vae": contract("vae")}
    from store_run import batches

    stores = [make("npy", tmp_path / "two") for _ in range(2)]
    (unit,) = stores[0].missing("vae", source, lambda *_: True, lambda _: False)
    for rank, store in enumerate(stores):
        store.open(contracts, rank=rank)
        store.begin("vae", [unit], source)
    for rank, store in enumerate(stores):
        for result in batches("vae", source, [int(i) for i in unit.indices[rank::2]]):
            store.fail(result) if hasattr(result, "stage") else store.write(result)
    stores[0].finish(source, complete=True)
    run(tmp_path / "one", "npy", encoders=("vae",))
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    del one[".latentkit/lock"]
    assert one == two


def test_old_records_keep_what_is_theirs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = [
        {
            "image_path": "data/approved/zz.jpg",
            "dinov3_embedding": [0.5, 1e-05],
            "caption": "not in the source",
        },
        {"image_path": "x/009.jpg", "image_id": "set/000", "note": "mine", "dinov3_embedding": [0.25]},
        {"image_path": "photos/7.jpg", "image_id": "set/049", "caption": "quarantined", "width": 3},
        {"image_path": "photos/1.jpg", "image_id": "set/007", "caption": "first"},
        {"image_path": "photos/1.jpg", "image_id": "set/007", "caption": "second", "score": 7},
    ]
    lines = [json.dumps(record) for record in old]
    text = "\n".join([lines[0], '{"image_path": 3}', *lines[1:], '{"image_path": "cut'])
    (tmp_path / "records.jsonl").write_text(text)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, "npy")
    found = {record.get("image_id", "zz"): record for record in records(tmp_path)}
    assert found["zz"] == old[0]
    assert found["set/049"] == old[2]
    assert list(found["set/000"])[-3:] == ["encoders", "note", "dinov3_embedding"]
    assert found["set/000"]["image_path"] == "photos/0.jpg"
    assert found["set/007"]["score"] == 7
    assert len(found) == len(records(tmp_path)) == 58 + 2
    aside = (tmp_path / "records.jsonl.bad").read_text().splitlines()
    assert aside == ['{"image_path": 3}', lines[3], '{"image_path": "cut']
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "line 2 is bad",
        "line 5 is bad",
        "line 7 is bad",
    ]
    before = tree(tmp_path)
    run(tmp_path, "npy")
    assert tree(tmp_path) == before


def test_damaged_ledgers_cost_only_their_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "clean", "npy")
    run(tmp_path / "hurt", "npy")
    ledger = tmp_path / "hurt" / ".latentkit" / "done" / "vae.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    bad = b'{"key": "set/001", "sha256": 5}\n'
    ledger.write_bytes(b"".join(lines[:4]) + bad + b"".join(lines[5:-1]) + lines[-1][:20])
    lost = sorted(json.loads(lines[i])["key"] for i in (4, -1))
    source = Pictures()
    left = missing(make("npy", tmp_path / "hurt"), "vae", source)
    assert sorted(source[i].key for i in left) == lost
    run(tmp_path / "hurt", "npy")
    assert any("vae.jsonl: line 5 is bad: kept aside" in message for message in caplog.messages)
    assert any("vae.jsonl: line 58 was cut: trimmed" in message for message in caplog.messages)
    hurt = tree(tmp_path / "hurt")
    assert hurt.pop(".latentkit/done/vae.jsonl.bad") == bad
    assert hurt == tree(tmp_path / "clean")


def test_quarantine_names_each_picture_once(tmp_path: Path) -> None:
    run(tmp_path, "npy")
    (first, second) = (json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert [first["key"], second["key"]] == ["set/048", "set/049"]
    assert list(first) == ["key", "stage", "reason", "time", "encoders", "sha256", "size", "mtime_ns"]
    assert first["encoders"] == ["text", "vae"]
    held = Quarantine.read(tmp_path).held("vae")["set/048"]
    assert held.source == Pictures().fingerprint(33)
    store = make("npy", tmp_path)
    store.open({"text": contract("text")})
    store.begin("text", [], Pictures())
    store.fail(failure(Pictures(), 2, "text"))
    assert Quarantine.read(tmp_path).keys() == {"set/014", "set/048", "set/049"}
    store.finish(Pictures(), complete=True)
    record = next(record for record in records(tmp_path) if record["image_id"] == "set/014")
    assert record["encoders"] == ["vae"]


def test_another_contract_is_refused_field_by_field(tmp_path: Path) -> None:
    run(tmp_path, "npy")
    before = tree(tmp_path)
    asked = {"vae": contract("vae", precision="tf32", input={"size": 16, "range": [-1, 1]})}
    for refused in (make("npy", tmp_path).check, make("npy", tmp_path).open):
        with pytest.raises(ContractError) as error:
            refused(asked)
        head, *fields = str(error.value).splitlines()
        assert "vae_latents holds other numbers" in head
        assert fields == ["  input.size: there 8, asked 16", "  precision: there 32-true, asked tf32"]
    assert tree(tmp_path) == before
    run(tmp_path, "npy", encoders=("vae",), overwrite=True, contracts=asked)
    assert make("npy", tmp_path).contract("vae") == asked["vae"]


def test_arrays_without_a_contract_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "vae_latents").mkdir()
    np.save(tmp_path / "vae_latents" / "mine.npy", np.zeros(3))
    with pytest.raises(ContractError, match="arrays without a contract"):
        run(tmp_path, "npy")


def test_an_edited_contract_is_noticed(tmp_path: Path) -> None:
    run(tmp_path, "npy")
    path = tmp_path / "vae_latents" / "contract.json"
    path.write_text(path.read_text().replace('"32-true"', '"tf32"'))
    with pytest.raises(LatentkitError, match="hash does not fit"):
        make("npy", tmp_path).contract("vae")
    run(tmp_path, "npy", overwrite=True)
    assert make("npy", tmp_path).contract("vae") == contract("vae")


@pytest.mark.parametrize("folder", ["../vae", "/vae", ".latentkit/vae", ".", "text", "text/vae"])
def test_folders_are_under_the_root_and_apart(tmp_path: Path, folder: str) -> None:
    store = NpyStore(root=str(tmp_path), folders={"vae": folder})
    with pytest.raises(UsageError, match=r"^store\.folders"):
        store.check({"vae": contract("vae"), "text": contract("text")})


def npy(array: object, **header: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    if not header:
        return file.getvalue()
    forged = io.BytesIO()
    np.lib.format.write_array_header_1_0(forged, {"descr": "<f2", "fortran_order": False} | header)
    return forged.getvalue() + bytes(48)


WHOLE = npy(np.zeros((4, 3, 2), np.float16))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (WHOLE[:100], "damaged"),
        (WHOLE[:-1], "175 bytes and its header says 176"),
        (WHOLE + b"junk", "180 bytes and its header says 176"),
        (WHOLE[:128] + bytes(4096), "4224 bytes and its header says 176"),
        (npy(np.array([{}], object)), "Python objects"),
        (npy(0, shape=(2**40, 2**20)), "its contract says float16"),
        (npy(0, shape=(4, 3, -2)), "shape"),
        (npy(np.zeros((4, 3, 2), np.float32)), "float32"),
        (npy(np.asfortranarray(np.zeros((4, 3, 2), np.float16))), "Fortran"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535, "damaged"),
    ],
    ids=[
        "empty",
        "cut",
        "short",
        "junk",
        "zeros",
        "pickle",
        "huge",
        "negative",
        "dtype",
        "fortran",
        "header",
    ],
)
def test_forged_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    run(tmp_path, "npy", Pictures(3), encoders=("vae",))
    (tmp_path / "vae_latents" / "set" / "000.npy").write_bytes(content)
    with pytest.raises(
        LatentkitError, match=rf"000\.npy is damaged: .*{reason if reason != 'damaged' else ''}"
    ):
        open_output(tmp_path / "vae_latents").read("set/000")


def test_a_key_cannot_leave_the_folder(tmp_path: Path) -> None:
    run(tmp_path, "npy", Pictures(3))
    with pytest.raises(LatentkitError, match="outside"):
        open_output(tmp_path / "vae_latents").read("../../etc/passwd")


class Recaptioned(Pictures):
    """Picture 3 has lost its caption, picture 4 has another one."""

    def __getitem__(self, index: int) -> Item:
        item = super().__getitem__(index)
        return replace(item, caption={3: None, 4: "another"}.get(index, item.caption))


def test_captions_edited_while_a_run_encodes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they came from the records; a text file beside the picture wins."""
    derived = library_tree.build(tmp_path, 4) / "derived"
    for number in range(3):
        (tmp_path / f"data/approved/p{number:02d}.txt").unlink()
    path = derived / "approved_image_dataset.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[:3]:
        assert record.pop("caption_source")["from"] == "text file"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    monkeypatch.chdir(tmp_path)
    source, store = library_tree.Photos(), library_tree.store(Path("data"))
    text = path.read_text()
    for number, caption in enumerate(('" my own "', "null", '"photo number 2"', '"my own"')):
        text = text.replace(f'"photo number {number}"', caption)
    path.write_text(text)
    store.finish(source, complete=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(line["caption"], "text" in line["encoders"], "t5_attention_mask" in line) for line in lines]
    assert found == [
        ("my own", False, False),
        (None, False, False),
        ("photo number 2", True, True),
        ("photo number 3", True, True),
    ]
    library_tree.encode(tmp_path / "data")
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["caption"], "text" in first["encoders"]) == ("my own", True)


def test_a_record_mentions_no_text_output_of_another_caption(tmp_path: Path) -> None:
    """Nor does a mask stay that an old record or a quarantined output left."""
    source = Recaptioned()
    stage1 = {"image_path": "photos/2.jpg", "image_id": source[2].key, "t5_attention_mask": [1, 1, 1]}
    (tmp_path / "records.jsonl").write_text(json.dumps(stage1) + "\n")
    run(tmp_path, "npy", encoders=("vae",))
    assert not any("t5_attention_mask" in record for record in records(tmp_path))
    run(tmp_path, "npy", encoders=("text",))
    store = make("npy", tmp_path)
    store.open({"vae": contract("vae")})
    store.begin("vae", [], source)
    store.fail(failure(source, 5, "text"))
    store.finish(source, complete=True)
    found = {record["image_id"]: record for record in records(tmp_path)}
    for index in (3, 4, 5):
        record = found[source[index].key]
        assert record["encoders"] == ["vae"]
        assert "t5_attention_mask" not in record
    assert found[source[4].key]["caption"] == "another"
    assert found[source[2].key]["t5_attention_mask"] == [1, 1, 1, 0, 0]
    assert found[source[2].key]["encoders"] == ["text", "vae"]
