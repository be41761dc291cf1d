"""Encoded pictures as trainers read them, against numpy on the files and against the webdataset package."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import webdataset
from rich.console import Console
from torch.utils.data import DataLoader
from training_tree import FOLDERS, KEYS, RECORDS, TOKENS, Captioned, bucket_of, build

from latentkit.encoders import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.exports.webdataset import TarJob
from latentkit.stores import BucketBatchSampler, LatentFiles, LatentTars, NpyStore
from latentkit.stores.records import Records

SHIFT, SCALE = np.float32(0.1159), np.float32(0.3611)


def pack(derived: Path, tars: Path, **settings: Any) -> Path:
    store = NpyStore(root=str(derived), folders=FOLDERS, records=RECORDS)
    members = {"flux_vae": "vae", "t5": "t5h", "t5_mask": "t5m"}
    job = TarJob(store=store, shards_dir=str(tars), members=members, **settings)
    with job.locks():
        job.run(job.plan(), Console(file=io.StringIO()))
    return tars


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of all three encoders; one picture has no caption, so it is not complete."""
    root = tmp_path_factory.mktemp("library") / "derived"
    build(root, Captioned([*KEYS, "mute"], wordless=["mute"]))
    return root


@pytest.fixture(scope="module")
def tars(derived: Path) -> Path:
    """The same in tars of three."""
    return pack(derived, derived.with_name("shards"), shard_size=3)


def files_of(derived: Path, key: str) -> dict[str, np.ndarray]:
    """A picture's arrays by numpy alone."""
    folders = {
        "dinov3": "dinov3",
        "dinov3_patches": "dinov3_patches",
        "flux_vae": "vae_latents",
        "t5": "t5_hidden",
    }
    return {name: np.load(derived / folder / f"{key}.npy") for name, folder in folders.items()}


def record_of(derived: Path, key: str) -> dict[str, Any]:
    lines = (derived / RECORDS).read_text().splitlines()
    return next(record for line in lines if (record := json.loads(line))["image_id"] == key)


def check_sample(sample: dict[str, Any], derived: Path) -> None:
    key = sample["image_id"]
    for name, array in files_of(derived, key).items():
        assert sample[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(sample[name].numpy(), array)
    record = record_of(derived, key)
    assert sample["t5_mask"].dtype == torch.bool
    assert sample["t5_mask"].int().tolist() == record["t5_attention_mask"]
    assert sample["caption"] == f"A photo of {key}"
    assert (sample["aspect_bucket"], sample["width"], sample["height"]) == (bucket_of(key), 640, 480)


def test_the_webdataset_package_reads_what_lies_in_the_folder(derived: Path, tars: Path) -> None:
    urls = sorted(map(str, tars.glob("*/*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert sorted(unquote(sample["__key__"].rpartition("/")[2]) for sample in samples) == sorted(KEYS)
    for sample in samples:
        key = sample["json"]["image_id"]
        assert unquote(sample["__key__"].rpartition("/")[2]) == key
        assert sample["json"] == record_of(derived, key)
        for name, array in files_of(derived, key).items():
            member = {"flux_vae": "vae", "t5": "t5h"}.get(name, name)
            assert sample[f"{member}.npy"].dtype == array.dtype
            np.testing.assert_array_equal(sample[f"{member}.npy"], array)
        assert sample["t5m.npy"].dtype == np.uint8
        assert sample["t5m.npy"].tolist() == sample["json"]["t5_attention_mask"]


def test_files_give_each_complete_picture(derived: Path) -> None:
    dataset = LatentFiles(derived)
    assert len(dataset) == len(KEYS)
    assert [sample["image_id"] for sample in dataset] == sorted(KEYS)
    for sample in dataset:
        check_sample(sample, derived)
        assert sample["t5_mask"].shape == (TOKENS,)


def test_some_encoders_alone_need_only_their_own_files(derived: Path) -> None:
    dataset = LatentFiles(derived, encoders=["flux_vae"])
    assert len(dataset) == len(KEYS) + 1
    assert "t5" not in dataset[0]
    mute = next(sample for sample in dataset if sample["image_id"] == "mute")
    assert mute["caption"] == ""
    with pytest.raises(UsageError, match="has no clip, there are dinov3, flux_vae, t5"):
        LatentFiles(derived, encoders=["clip"])


def test_tars_give_the_same(derived: Path, tars: Path) -> None:
    samples = list(LatentTars(tars))
    assert sorted(sample["image_id"] for sample in samples) == sorted(KEYS)
    for sample in samples:
        check_sample(sample, derived)
    chosen = list(LatentTars(tars, buckets=["48x80"], encoders=["dinov3"]))
    assert {sample["image_id"] for sample in chosen} == {key for key in KEYS if bucket_of(key) == "48x80"}
    assert {"flux_vae", "t5", "t5_mask"}.isdisjoint(chosen[0])


@pytest.mark.parametrize("stored_scaled", [False, True])
def test_scale_and_shift_are_applied_once(tmp_path: Path, stored_scaled: bool) -> None:
    build(tmp_path / "derived", Captioned(["one"]), scaled=stored_scaled)
    tars = pack(tmp_path / "derived", tmp_path / "tars")
    stored = np.load(tmp_path / "derived" / "vae_latents" / "one.npy").astype(np.float32)
    expected = stored if stored_scaled else (stored - SHIFT) * SCALE
    for sample in (
        LatentFiles(tmp_path / "derived", scaled=True)[0],
        next(iter(LatentTars(tars, scaled=True))),
    ):
        assert sample["flux_vae"].dtype == torch.float32
        np.testing.assert_allclose(sample["flux_vae"].numpy(), expected, rtol=1e-6)
        assert sample["t5"].dtype == torch.float16


def test_vectors_scale_each_channel(tmp_path: Path) -> None:
    vectors = {"latents_mean": [0.5, -0.25, 0.0, 2.0], "latents_std": [1.0, 2.0, 0.5, 4.0]}
    build(tmp_path / "derived", Captioned(["one"]), **vectors)
    stored = np.load(tmp_path / "derived" / "vae_latents" / "one.npy").astype(np.float32)
    mean, std = (np.reshape(np.float32(vector), (4, 1, 1)) for vector in vectors.values())
    sample = LatentFiles(tmp_path / "derived", scaled=True)[0]
    np.testing.assert_allclose(sample["flux_vae"].numpy(), (stored - mean) * SCALE / std, rtol=1e-6)


def test_latents_of_the_mirrored_picture_are_scaled_too(tmp_path: Path) -> None:
    latents = {"shape": [4, "H/8", "W/8"], "dtype": "float16"}
    build(tmp_path / "derived", Captioned(["one"]), outputs={"latents": latents, "latents_flip": latents})
    tars = pack(tmp_path / "derived", tmp_path / "tars")
    for name, folder in (("flux_vae", "vae_latents"), ("flux_vae_latents_flip", "vae_latents_latents_flip")):
        stored = np.load(tmp_path / "derived" / folder / "one.npy").astype(np.float32)
        for sample in (
            LatentFiles(tmp_path / "derived", scaled=True)[0],
            next(iter(LatentTars(tars, scaled=True))),
        ):
            np.testing.assert_allclose(sample[name].numpy(), (stored - SHIFT) * SCALE, rtol=1e-6)


def test_contracts_that_are_not_as_asked_are_refused(derived: Path, tars: Path, tmp_path: Path) -> None:
    for reader, place in ((LatentFiles, derived), (LatentTars, tars)):
        assert len(reader(place, require={"flux_vae": {"stored": "posterior_mean", "scaled": False}}))
        with pytest.raises(ContractError, match="flux_vae: the contract says stored = 'posterior_mean'"):
            reader(place, require={"flux_vae": {"stored": "moments"}})
        with pytest.raises(ContractError, match=r"dinov3: .* no field 'input.crop'"):
            reader(place, require={"dinov3": {"input__crop": "adm"}})
        with pytest.raises(ContractError, match="there is no sd_vae, there are dinov3, flux_vae, t5"):
            reader(place, require={"sd_vae": {"scaled": False}})
        with pytest.raises(ContractError, match="none of dinov3, t5 stores latents"):
            reader(place, encoders=["dinov3", "t5"], scaled=True)
    for number, (changes, words) in enumerate(
        [
            ({"stored": "moments"}, "stored = 'moments'"),
            ({"model": "unrecorded", "scaling_factor": None, "shift_factor": None}, "scaling_factor = None"),
        ]
    ):
        build(tmp_path / str(number), Captioned(["one"]), **changes)
        assert len(LatentFiles(tmp_path / str(number))) == 1
        with pytest.raises(ContractError, match=words):
            LatentFiles(tmp_path / str(number), scaled=True)


def test_numbers_of_random_weights_have_to_be_asked_for(tmp_path: Path) -> None:
    build(tmp_path / "derived", Captioned(["one"]), pretrained=False, weights="random:0")
    tars = pack(tmp_path / "derived", tmp_path / "tars")
    for reader, place in ((LatentFiles, tmp_path / "derived"), (LatentTars, tars)):
        with pytest.raises(ContractError, match=r"flux_vae: .*pretrained = False.* allow_random=True"):
            reader(place)
        assert len(reader(place, encoders=["t5"])) == 1
        assert len(list(reader(place, allow_random=True))) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_batches_share_a_bucket_and_cover_everything(derived: Path, world_size: int) -> None:
    dataset = LatentFiles(derived)
    keys = [sample["image_id"] for sample in dataset]
    for shuffle in (False, True):
        ranks = [
            BucketBatchSampler(dataset, 3, shuffle=shuffle, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        epochs = []
        for epoch in range(2):
            for sampler in ranks:
                sampler.set_epoch(epoch)
            steps = list(zip(*ranks, strict=True))
            assert {len(sampler) for sampler in ranks} == {len(steps)}
            assert steps == list(zip(*ranks, strict=True))
            for step in steps:
                assert len({bucket_of(keys[index]) for batch in step for index in batch}) == 1
                assert all(1 <= len(batch) <= 3 for batch in step)
            counts = Counter(index for step in steps for batch in step for index in batch)
            assert set(counts) == set(range(len(keys)))
            for bucket in {bucket_of(key) for key in keys}:
                twice = sum(count - 1 for index, count in counts.items() if bucket_of(keys[index]) == bucket)
                assert twice < world_size
            epochs.append(steps)
        assert (epochs[0] != epochs[1]) == shuffle
    full = BucketBatchSampler(dataset, 3, drop_last=True, world_size=world_size)
    assert {len(batch) for batch in full} <= {3}
    assert len(list(full)) == len(full)
    order = [list(BucketBatchSampler(dataset, 3, seed=seed)) for seed in (0, 0, 1)]
    assert order[0] == order[1] != order[2]


def test_pictures_cropped_to_themselves_share_a_batch_when_their_sizes_are_equal(tmp_path: Path) -> None:
    build(tmp_path, Captioned(["a", "b", "c"]), buckets=False)
    lines = [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()]
    for line, size in zip(lines, (64, 80, 64), strict=True):
        line.update(width=size, height=64)
    (tmp_path / RECORDS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    batches = list(BucketBatchSampler(LatentFiles(tmp_path), 2, shuffle=False))
    assert batches == [[0, 2], [1]]
    # dinov3 has one shape, whatever the picture's
    alone = LatentFiles(tmp_path, encoders=["dinov3"])
    assert list(BucketBatchSampler(alone, 3, shuffle=False)) == [[0, 1, 2]]


@pytest.mark.parametrize("pickled", [False, True], ids=["forked", "spawned"])
def test_files_and_tars_through_worker_processes(derived: Path, tars: Path, pickled: bool) -> None:
    """Spawning a worker pickles the dataset; the rest of it takes seconds and belongs to torch."""
    dataset = LatentFiles(derived, scaled=True)
    stream = LatentTars(tars, batch_size=4, scaled=True, shuffle_buffer=5)
    if pickled:
        dataset, stream = pickle.loads(pickle.dumps((dataset, stream)))
    fork = multiprocessing.get_context("fork")
    sampler = BucketBatchSampler(dataset, 4)
    single = {sample["image_id"]: sample for sample in dataset}
    for batches in (
        DataLoader(dataset, batch_sampler=sampler, num_workers=2, multiprocessing_context=fork),
        DataLoader(stream, None, num_workers=2, multiprocessing_context=fork),
    ):
        seen = []
        for batch in batches:
            assert len({*batch["aspect_bucket"]}) == 1
            for row, key in enumerate(batch["image_id"]):
                seen.append(key)
                for name in ("dinov3", "dinov3_patches", "flux_vae", "t5", "t5_mask"):
                    assert torch.equal(batch[name][row], single[key][name])
        assert sorted(seen) == sorted(KEYS)
        assert len(batches) == len(list(batches))


@pytest.mark.parametrize("shuffle_buffer", [0, 1, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_tars_divide_among_ranks(tars: Path, world_size: int, shuffle_buffer: int) -> None:
    ranks = [
        LatentTars(tars, batch_size=2, shuffle_buffer=shuffle_buffer, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    epochs = []
    for epoch in range(2):
        for reader in ranks:
            reader.set_epoch(epoch)
        steps = [
            [(tuple(batch["image_id"]), *{*batch["aspect_bucket"]}) for batch in step]
            for step in zip(*ranks, strict=True)
        ]
        assert {len(reader) for reader in ranks} == {len(steps)}
        assert all(len({bucket for _, bucket in step}) == 1 for step in steps)
        counts = Counter(key for step in steps for batch, _ in step for key in batch)
        assert set(counts) == set(KEYS)
        for bucket in {bucket_of(key) for key in KEYS}:
            assert sum(count - 1 for key, count in counts.items() if bucket_of(key) == bucket) < world_size
        epochs.append(steps)
    assert (epochs[0] != epochs[1]) == bool(shuffle_buffer)


def test_tars_that_are_not_as_the_manifest_says_are_refused(tars: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tars, tmp_path / "tars"))
    path = sorted(copy.glob("*/*.tar"))[0]
    content = path.read_bytes()
    for damaged, words in (
        (content[:-10240], "has .* bytes, the manifest says"),
        (b"\xff" * 512 + content[512:], "run latentkit.shard again"),
        (content.replace(b"NUMPY\x01", b"NUMPY\x09", 1), "is damaged"),
        (content.replace(b"'descr': '<f2'", b"'descr': '|O2'"), "is damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(LatentkitError, match=words) as caught:
            list(LatentTars(copy))
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(LatentkitError, match=path.name):
        list(LatentTars(copy))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["buckets"]["48x80"]["complete"] = False
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LatentkitError, match="not finished"):
        LatentTars(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(LatentkitError, match=r"manifest.json does not exist: run latentkit.shard first"):
        LatentTars(copy)


def test_a_damaged_file_is_named(derived: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(derived, tmp_path / "derived"))
    dataset = LatentFiles(copy)
    index = sorted(KEYS).index("p03")
    (copy / "vae_latents" / "p03.npy").write_bytes(b"")
    with pytest.raises(LatentkitError, match=r"vae_latents/p03\.npy is damaged"):
        dataset[index]
    assert len(LatentFiles(copy)) == len(KEYS) - 1
    with pytest.raises(UsageError, match=r"no encoder's contract\.json"):
        LatentFiles(tmp_path)


def test_records_that_were_published_again_are_noticed(derived: Path, tmp_path: Path) -> None:
    """Every picture has its own caption or an error, wherever its line lies by now."""
    copy = Path(shutil.copytree(derived, tmp_path / "derived"))
    dataset = LatentFiles(copy)
    first = dataset[0]["image_id"]
    Records(copy / RECORDS).forget({first})
    for index in range(len(dataset)):
        with pytest.raises(LatentkitError, match="the records have changed since: open the dataset again"):
            dataset[index]
    again = LatentFiles(copy)
    assert len(again) == len(KEYS) - 1
    check_sample(again[0], copy)


def test_torch_is_loaded_when_a_reader_is_asked_for() -> None:
    code = (
        "import sys, latentkit.stores\n"
        "assert 'torch' not in sys.modules\n"
        "from latentkit.stores import LatentFiles, LatentTars, BucketBatchSampler\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
