"""The shard store: what a trainer finds on the disk, and which shards are encoded again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from store_run import Pictures, batches, contract, make, missing, numbers, plan, run, tree

from latentkit.encoders.contract import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.stores import ShardStore
from latentkit.stores.open import open_output


def manifest(root: Path) -> dict:
    return json.loads((root / "vae" / "manifest.json").read_text())


def test_shards_open_with_safetensors(tmp_path: Path) -> None:
    run(tmp_path, "shards")
    source = Pictures()
    for k in range(4):
        path = tmp_path / "vae" / f"shard_{k:08d}.safetensors"
        present = [i for i in range(16 * k, min(16 * k + 16, 60)) if i not in (7, 33)]
        tensors = load_file(path)
        assert sorted(tensors) == ["labels", "latents"]
        np.testing.assert_array_equal(
            tensors["latents"], np.stack([numbers("vae", source, i, "latents") for i in present])
        )
        assert tensors["latents"].dtype == np.float16
        assert tensors["labels"].dtype == np.int64
        assert tensors["labels"].tolist() == [i % 3 for i in present]
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        assert json.loads(metadata["keys"]) == [source[i].key for i in present]
        assert metadata["contract"] == contract("vae").sha256
    assert sorted(load_file(tmp_path / "text" / "shard_00000000.safetensors")) == [
        "attention_mask",
        "hidden",
        "labels",
    ]
    row = open_output(tmp_path / "vae").read(source[40].key)
    np.testing.assert_array_equal(row["latents"], numbers("vae", source, 40, "latents"))
    assert make("shards", tmp_path).counts("vae").items == 58


def test_the_manifest_tells_all(tmp_path: Path) -> None:
    run(tmp_path, "shards")
    found = manifest(tmp_path)
    assert found["complete"] is True
    assert (found["total"], found["quarantined"], found["shard_size"]) == (58, 2, 16)
    assert (found["dataset"], found["split"], found["classes"]) == ("example", "val", ["cat", "dog", "eel"])
    assert found["contract_sha256"] == contract("vae").sha256
    assert found["contract"] == contract("vae").to_dict()
    assert [shard["count"] for shard in found["shards"]] == [15, 16, 15, 12]
    for shard in found["shards"]:
        content = (tmp_path / "vae" / shard["path"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_nothing_is_encoded_twice_and_planning_touches_nothing(tmp_path: Path) -> None:
    store = make("shards", tmp_path / "out")
    units = plan(store, "vae", Pictures())
    assert [(unit.id, len(unit.indices), unit.atomic) for unit in units] == [
        (0, 16, True),
        (1, 16, True),
        (2, 16, True),
        (3, 12, True),
    ]
    assert not (tmp_path / "out").exists()
    run(tmp_path / "out", "shards")
    before = tree(tmp_path / "out")
    assert missing(store, "vae", Pictures()) == []
    run(tmp_path / "out", "shards")
    assert tree(tmp_path / "out") == before


def test_a_changed_picture_costs_its_shard(tmp_path: Path) -> None:
    run(tmp_path, "shards")
    store = make("shards", tmp_path)
    assert missing(store, "vae", Pictures(edits={20: b"other"})) == list(range(16, 32))
    repaired = Pictures(edits={7: b"repaired"}, broken=(33,))
    assert missing(store, "vae", repaired) == list(range(16))
    assert missing(store, "vae", Pictures(), retry=True) == [*range(16), *range(32, 48)]
    (tmp_path / "vae" / "shard_00000003.safetensors").unlink()
    sidecar = tmp_path / ".latentkit" / "done" / "vae" / "shard_00000001.jsonl"
    sidecar.write_bytes(sidecar.read_bytes()[:-30])
    assert missing(store, "vae", Pictures()) == [*range(16, 32), *range(48, 60)]
    run(tmp_path, "shards", repaired)
    run(tmp_path / "clean", "shards", repaired)
    found = {name: content for name, content in tree(tmp_path).items() if "clean/" not in name}
    assert found == tree(tmp_path / "clean")


def test_a_smaller_source_leaves_no_stale_shard(tmp_path: Path) -> None:
    run(tmp_path / "shrunk", "shards")
    run(tmp_path / "shrunk", "shards", Pictures(20))
    run(tmp_path / "clean", "shards", Pictures(20))
    shrunk, clean = tree(tmp_path / "shrunk"), tree(tmp_path / "clean")
    assert b"set/048" in shrunk.pop("quarantine.jsonl")
    assert b"set/048" not in clean.pop("quarantine.jsonl")
    assert shrunk == clean


def test_a_shard_whose_every_picture_failed_has_no_file(tmp_path: Path) -> None:
    run(tmp_path, "shards")
    source = Pictures(broken=tuple(range(16, 32)), edits={i: b"broken %d" % i for i in range(16, 32)})
    run(tmp_path, "shards", source)
    assert [shard["path"][-14:] for shard in manifest(tmp_path)["shards"]] == [
        f"{k:02d}.safetensors" for k in (0, 2, 3)
    ]
    assert not (tmp_path / "vae" / "shard_00000001.safetensors").exists()
    assert manifest(tmp_path)["quarantined"] == 18
    assert plan(make("shards", tmp_path), "vae", source) == []
    (tmp_path / ".latentkit" / "done" / "vae" / "shard_00000001.jsonl").unlink()
    before = tree(tmp_path)
    (unit,) = plan(make("shards", tmp_path), "vae", source)
    assert (unit.id, len(unit.indices)) == (1, 0)
    run(tmp_path, "shards", source)
    after = tree(tmp_path)
    assert after.pop(".latentkit/done/vae/shard_00000001.jsonl").count(b'"sha256": null') == 17
    assert after == before


def test_a_stopped_run_says_that_it_is_not_complete(tmp_path: Path) -> None:
    run(tmp_path, "shards", stop_after=6)
    found = manifest(tmp_path)
    assert found["complete"] is False
    assert [shard["count"] for shard in found["shards"]] == [15, 16]
    run(tmp_path, "shards", stop_after=0, source=Pictures(edits={1: b"x"}))
    assert manifest(tmp_path)["complete"] is False
    run(tmp_path, "shards")
    assert manifest(tmp_path)["complete"] is True


def test_the_bytes_do_not_depend_on_who_encodes(tmp_path: Path) -> None:
    source, contracts = Pictures(), {"vae": contract("vae")}
    stores = [make("shards", tmp_path / "two") for _ in range(2)]
    units = plan(stores[0], "vae", source)
    for rank, store in enumerate(stores):
        store.open(contracts, rank=rank)
        store.begin("vae", units[rank::2], source)
    for rank in (1, 0):
        for unit in units[rank::2]:
            # Retried pictures come late: the order in which rows arrive must not matter.
            for result in reversed(list(batches("vae", source, [int(i) for i in unit.indices]))):
                stores[rank].fail(result) if hasattr(result, "stage") else stores[rank].write(result)
    stores[0].finish(source, complete=True)
    run(tmp_path / "one", "shards", encoders=("vae",))
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    del one[".latentkit/lock"]
    assert one == two


def test_shards_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    store = ShardStore(root=str(tmp_path), folders={"vae": "."}, shard_size=16)
    source = Pictures(20)
    store.check({"vae": contract("vae")})
    store.open({"vae": contract("vae")})
    units = plan(store, "vae", source)
    store.begin("vae", units, source)
    for unit in units:
        for result in batches("vae", source, [int(i) for i in unit.indices]):
            store.fail(result) if hasattr(result, "stage") else store.write(result)
    store.finish(source, complete=True)
    assert len(load_file(tmp_path / "shard_00000001.safetensors")["latents"]) == 4
    assert json.loads((tmp_path / "manifest.json").read_text())["total"] == 19


def test_what_cannot_lie_together_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "shards")
    before = tree(tmp_path)
    other = ShardStore(root=str(tmp_path), shard_size=8, dataset="example", split="train")
    with pytest.raises(ContractError) as error:
        other.open({"vae": contract("vae", stored="moments")})
    assert str(error.value).splitlines()[1:] == [
        "  stored: there posterior_mean, asked moments",
        "  shard_size: there 16, asked 8",
        "  split: there val, asked train",
    ]
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("shape", "size", "line"),
    [
        ([16, "H/8", "W/8"], 16, "latents of 16 x H/8 x W/8: give store=npy"),
        ([16, 128, 128], 10000, "takes 4.9 GiB of memory for vae, more than 4: give shard_size=8192 or less"),
        ([4, 4, 4], 0, "at least 1"),
    ],
)
def test_what_no_shard_can_hold_is_refused(tmp_path: Path, shape: list, size: int, line: str) -> None:
    asked = contract("vae", outputs={"latents": {"shape": shape, "dtype": "float16"}})
    with pytest.raises(UsageError, match=line):
        ShardStore(root=str(tmp_path), shard_size=size).check({"vae": asked})
    assert tree(tmp_path) == {}


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    run(tmp_path, "shards")
    path = tmp_path / "vae" / "shard_00000000.safetensors"
    with pytest.raises(LatentkitError, match="has no 'set/999'"):
        open_output(tmp_path / "vae").read("set/999")
    content = path.read_bytes()
    for damaged in (content + b"junk", content[:-1], b"", (2**60).to_bytes(8, "little") + content[8:]):
        path.write_bytes(damaged)
        with pytest.raises(LatentkitError, match=r"shard_00000000\.safetensors (is damaged|has \d+ bytes)"):
            open_output(tmp_path / "vae").read("set/000")
    path.unlink()
    with pytest.raises(LatentkitError, match=r"shard_00000000\.safetensors is missing"):
        open_output(tmp_path / "vae").read("set/000")
