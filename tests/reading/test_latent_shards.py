"""Latent shards as trainers read them, against the safetensors package on the files."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from store_run import Pictures, contract, failure
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from latentkit.encoders import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.prediction.plan import Unit
from latentkit.prediction.results import Encoded
from latentkit.stores import LatentShards, ShardStore

SCALE, SHIFT = np.float32(0.18215), np.float32(0.25)
COUNT = 58
"""Of 60 pictures two are in quarantine."""


def build(root: Path, *, flip: bool = False, source: Pictures | None = None, **changes: Any) -> Path:
    """Shards of 16, written by the store; every number is random."""
    source = source or Pictures()
    channels = 8 if changes.get("stored") == "moments" else 4
    names = ["latents", "latents_flip"] if flip else ["latents"]
    fields = {
        "outputs": {name: {"shape": [channels, 3, 2], "dtype": "float16"} for name in names},
        "pretrained": True,
        "scaling_factor": float(SCALE),
        "shift_factor": float(SHIFT),
    }
    asked = contract("vae", **(fields | changes))
    store = ShardStore(root=str(root), folders={"vae": "."}, shard_size=16, dataset="example", split="train")
    store.open({"vae": asked})
    units = [Unit(k, np.arange(16 * k, min(16 * k + 16, 60)), True) for k in range(4)]
    store.begin("vae", units, source)
    rng = np.random.default_rng(0)
    for index in range(60):
        arrays = {
            name: rng.standard_normal((1, *output["shape"])).astype(output["dtype"])
            for name, output in asked.outputs.items()
        }
        if index in source.broken:
            store.fail(failure(source, index, "vae"))
            continue
        keys = [source[index].key]
        store.write(Encoded("vae", [index], keys, arrays, [{}], [source.fingerprint(index)]))
    store.finish(source, complete=True)
    return root


def tensors(root: Path) -> dict[str, np.ndarray]:
    """Everything in the folder, end to end, by the safetensors package; and the keys."""
    files = sorted(root.glob("*.safetensors"))
    parts = [load_file(file) for file in files]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keys: list[str] = []
    for file in files:
        with safe_open(file, "numpy") as shard:
            keys += json.loads(shard.metadata()["keys"])
    return found | {"keys": np.array(keys)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("flipped"), flip=True)


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("moments"), flip=True, stored="moments")


def test_every_picture_in_order(plain: Path) -> None:
    expected = tensors(plain)
    for path in (plain, str(plain), plain / "manifest.json"):
        dataset = LatentShards(path, keys=True)
        assert len(dataset) == COUNT
        assert dataset.classes == ("cat", "dog", "eel")
        assert dataset.contract.stored == "posterior_mean"
        latents, labels, keys = zip(*dataset, strict=True)
        assert (latents[0].dtype, labels[0].dtype) == (torch.float16, torch.int64)
        np.testing.assert_array_equal(torch.stack(latents).numpy(), expected["latents"])
        assert [int(label) for label in labels] == expected["labels"].tolist()
        assert list(keys) == [dataset.key(index) for index in range(COUNT)] == expected["keys"].tolist()
    assert torch.equal(dataset[-1][0], dataset[COUNT - 1][0])
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"picture {index} of 58"):
            dataset[index]


def test_batches_of_any_indices(plain: Path) -> None:
    dataset, expected = LatentShards(plain), tensors(plain)
    rng = np.random.default_rng(1)
    for indices in ([], [5], [3, 3, -1], list(range(10, 40)), rng.permutation(COUNT)):
        latents, labels = dataset.batch(indices)
        np.testing.assert_array_equal(latents.numpy(), expected["latents"][np.array(indices, int)])
        np.testing.assert_array_equal(labels.numpy(), expected["labels"][np.array(indices, int)])
    latents.zero_()  # they are copies
    np.testing.assert_array_equal(tensors(plain)["latents"], expected["latents"])


@pytest.mark.parametrize("stored_scaled", [False, True])
def test_scale_and_shift_are_applied_once(tmp_path: Path, stored_scaled: bool) -> None:
    root = build(tmp_path, scaled=stored_scaled)
    stored = tensors(root)["latents"].astype(np.float32)
    latents, _ = LatentShards(root, scaled=True).batch(range(COUNT))
    assert latents.dtype == torch.float32
    expected = stored if stored_scaled else (stored - SHIFT) * SCALE
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("stored", ["posterior_mean", "moments"])
def test_vectors_scale_each_channel(tmp_path: Path, stored: str) -> None:
    mean, std = [0.5, -0.25, 0.0, 2.0], [1.0, 2.0, 0.5, 4.0]
    root = build(tmp_path, stored=stored, latents_mean=mean, latents_std=std)
    found = LatentShards(root, scaled=True).batch(range(COUNT))[0].numpy()
    numbers = tensors(root)["latents"].astype(np.float32)
    scale = SCALE / np.reshape(np.float32(std), (4, 1, 1))
    expected = (numbers[:, :4] - np.reshape(np.float32(mean), (4, 1, 1))) * scale
    if stored == "posterior_mean":
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        noise = (found - expected) / (scale * np.exp(numbers[:, 4:] / 2))
        assert abs(noise.mean()) < 5 / noise.size**0.5
        assert (abs(noise.std(axis=(0, 2, 3)) - 1) < 5 / (2 * noise[:, 0].size) ** 0.5).all()


def picked(dataset: LatentShards, expected: dict[str, np.ndarray], epoch: int) -> np.ndarray:
    """For every picture whether its mirror's latent was given; that it is one of the two is checked."""
    dataset.set_epoch(epoch)
    latents = dataset.batch(range(COUNT))[0].numpy()
    mirrored = (latents == expected["latents_flip"]).all(axis=(1, 2, 3))
    upright = (latents == expected["latents"]).all(axis=(1, 2, 3))
    assert (mirrored != upright).all()
    return mirrored


def test_the_flip_is_drawn_by_index_epoch_and_seed(flipped: Path, plain: Path) -> None:
    expected = tensors(flipped)
    dataset = LatentShards(flipped)
    drawn = np.stack([picked(dataset, expected, epoch) for epoch in range(200)])
    assert abs(drawn.mean() - 0.5) < 5 * 0.5 / drawn.size**0.5
    for axis, others in ((0, 200), (1, COUNT)):
        assert np.abs(drawn.mean(axis) - 0.5).max() < 5 * 0.5 / others**0.5
    again = np.stack([picked(LatentShards(flipped), expected, epoch) for epoch in range(5)])
    np.testing.assert_array_equal(again, drawn[:5])
    assert (picked(LatentShards(flipped, seed=1), expected, 0) != drawn[0]).any()
    dataset.set_epoch(3)
    for index in (50, 2):
        alone = (dataset[index][0].numpy() == expected["latents_flip"][index]).all()
        assert alone == drawn[3, index]
    never = LatentShards(flipped, flip=False).batch(range(COUNT))[0]
    np.testing.assert_array_equal(never.numpy(), expected["latents"])
    assert picked(LatentShards(flipped, flip=True), expected, 0).any()
    with pytest.raises(ContractError, match="stores no latents_flip: encode with flip=true"):
        LatentShards(plain, flip=True)


@pytest.mark.parametrize("scaled", [False, True])
def test_moments_are_sampled(moments: Path, scaled: bool) -> None:
    stored = tensors(moments)["latents"].astype(np.float32)
    mean, std = stored[:, :4], np.exp(stored[:, 4:] / 2)
    dataset = LatentShards(moments, flip=False, scaled=scaled, seed=2)
    given = []
    for epoch in range(100):
        dataset.set_epoch(epoch)
        latents = dataset.batch(range(COUNT))[0]
        assert latents.dtype == (torch.float32 if scaled else torch.float16)
        values = latents.float().numpy()
        given.append(values / SCALE + SHIFT if scaled else values)
    noise = (np.stack(given) - mean) / std
    assert abs(noise.mean()) < 5 / noise.size**0.5
    assert abs(noise.std() - 1) < 5 / (2 * noise.size) ** 0.5 + 1e-3
    assert abs((noise**4).mean() - 3) < 5 * (96 / noise.size) ** 0.5 + 0.01
    flat = noise.reshape(100, COUNT, -1)
    assert np.abs(np.corrcoef(flat.reshape(100 * COUNT, -1).T) - np.eye(24)).max() < 0.1
    assert np.abs(np.corrcoef(flat[:, :, 0].T) - np.eye(COUNT)).max() < 0.6
    assert abs((flat[1:] * flat[:-1]).mean()) < 5 / flat[1:].size ** 0.5
    dataset.set_epoch(7)
    for seed in (2, 3):
        other = LatentShards(moments, flip=False, scaled=scaled, seed=seed)
        other.set_epoch(7)
        same = torch.equal(other.batch(range(COUNT))[0], dataset.batch(range(COUNT))[0])
        assert same == (seed == 2)
    torch.testing.assert_close(dataset.batch([9, 4])[0][1], dataset[4][0], rtol=0, atol=0)
    means = LatentShards(moments, flip=False, sample=False).batch(range(COUNT))[0]
    np.testing.assert_array_equal(means.numpy(), mean.astype(np.float16))


def test_moments_of_the_mirror_are_sampled_too(moments: Path) -> None:
    expected = tensors(moments)
    latents = LatentShards(moments, sample=False).batch(range(COUNT))[0].numpy()
    mirrored = (latents == expected["latents_flip"][:, :4]).all(axis=(1, 2, 3))
    upright = (latents == expected["latents"][:, :4]).all(axis=(1, 2, 3))
    assert (mirrored != upright).all()
    assert mirrored.any()
    assert upright.any()


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_give_what_one_process_gives(moments: Path, way: str) -> None:
    dataset = LatentShards(moments, scaled=True, keys=True)
    dataset[0]  # mapped here already
    loader = DataLoader(
        dataset,
        batch_size=8,
        num_workers=2,
        shuffle=True,
        multiprocessing_context=way,
        persistent_workers=True,
    )
    epochs = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        found = {}
        for latents, labels, keys in loader:
            assert latents.dtype == torch.float32
            found |= dict(zip(keys, zip(latents, labels, strict=True), strict=True))
        epochs.append(found)
        assert len(found) == COUNT
        alone = LatentShards(moments, scaled=True, keys=True)
        alone.set_epoch(epoch)
        for latents, label, key in alone:
            assert torch.equal(found[key][0], latents)
            assert found[key][1] == label
    first = next(iter(epochs[0]))
    assert not torch.equal(epochs[0][first][0], epochs[1][first][0])


def test_it_travels_light(plain: Path) -> None:
    dataset = LatentShards(plain)
    expected = dataset.batch(range(COUNT))[0]
    copy = pickle.dumps(dataset)
    assert len(copy) < 10_000
    assert torch.equal(pickle.loads(copy).batch(range(COUNT))[0], expected)


def test_ranks_share_an_epoch(moments: Path) -> None:
    dataset = LatentShards(moments, scaled=True, keys=True)
    alone = {key: latents for latents, _, key in dataset}
    found: dict[str, torch.Tensor] = {}
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=3)
        loader = DataLoader(LatentShards(moments, scaled=True, keys=True), 5, sampler=sampler)
        for latents, _, keys in loader:
            assert not found.keys() & set(keys)
            found |= dict(zip(keys, latents, strict=True))
    assert found.keys() == alone.keys()
    for key, latents in found.items():
        torch.testing.assert_close(latents, alone[key], rtol=0, atol=0)


class LatentFolder(Dataset):
    """How LightningDiT and its kin read a folder: every ``*.safetensors``, one slice a picture, upright or
    mirrored by chance, by each channel's mean and deviation, which lie in the folder from then on."""

    def __init__(self, folder: Path, multiplier: float = 1.0) -> None:
        self.places = []
        self.multiplier = multiplier
        self.random = np.random.default_rng(0)
        for name in sorted(folder.glob("*.safetensors")):
            with safe_open(name, framework="pt", device="cpu") as file:
                rows = file.get_slice("labels").get_shape()[0]
            self.places += [(name, row) for row in range(rows)]
        statistics = folder / "latents_stats.pt"
        if not statistics.exists():
            some = self.random.choice(len(self), min(10_000, len(self)), replace=False)
            latents = torch.cat([self.row(index, "latents") for index in some])
            mean = latents.mean(dim=[0, 2, 3], keepdim=True)
            torch.save({"mean": mean, "std": latents.std(dim=[0, 2, 3], keepdim=True)}, statistics)
        self.statistics = torch.load(statistics)

    def row(self, index: int, tensor: str) -> torch.Tensor:
        name, row = self.places[index]
        with safe_open(name, framework="pt", device="cpu") as file:
            return file.get_slice(tensor)[row : row + 1]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.row(index, "latents" if self.random.uniform() > 0.5 else "latents_flip")
        latents = (latents - self.statistics["mean"]) / self.statistics["std"] * self.multiplier
        return latents.squeeze(0), self.row(index, "labels").squeeze(0)


def test_the_folder_opens_in_loaders_of_that_format_as_it_is(flipped: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(flipped, tmp_path / "copy"))
    expected = tensors(root)
    both = np.stack([expected["latents"], expected["latents_flip"]]).astype(np.float32)
    mean, std = both[0].mean((0, 2, 3)), both[0].std((0, 2, 3), ddof=1)
    normal = (both - mean[:, None, None]) / std[:, None, None]
    LatentFolder(root)
    theirs = LatentFolder(root, multiplier=0.5)
    assert len(theirs) == COUNT
    chosen = set()
    for start, (latents, labels) in enumerate(DataLoader(theirs, batch_size=29)):
        rows = slice(29 * start, 29 * start + 29)
        assert labels.tolist() == expected["labels"][rows].tolist()
        away = np.abs(latents.float().numpy() / 0.5 - normal[:, rows]).max(axis=(2, 3, 4))
        assert (away.min(axis=0) < 0.02).all()
        chosen |= set(away.argmin(axis=0).tolist())
    assert chosen == {0, 1}
    assert (root / "latents_stats.pt").exists()
    ours = LatentShards(root, flip=False).batch(range(COUNT))[0]
    np.testing.assert_array_equal(ours.numpy(), expected["latents"])


def test_contracts_that_are_not_as_asked_are_refused(plain: Path, tmp_path: Path) -> None:
    assert len(LatentShards(plain, require={"stored": "posterior_mean", "input__size": 8})) == COUNT
    with pytest.raises(ContractError, match="vae: the contract says stored = 'posterior_mean', asked for 'm"):
        LatentShards(plain, require={"stored": "moments"})
    with pytest.raises(ContractError, match=r"no field 'input.crop'"):
        LatentShards(plain, require={"input__crop": "adm"})
    root = build(tmp_path / "random", pretrained=False)
    with pytest.raises(ContractError, match=r"pretrained = False.* allow_random=True"):
        LatentShards(root)
    assert len(LatentShards(root, allow_random=True)) == COUNT
    root = build(tmp_path / "factorless", scaling_factor=None)
    assert len(LatentShards(root)) == COUNT
    with pytest.raises(ContractError, match="scaling_factor = None"):
        LatentShards(root, scaled=True)
    root = build(tmp_path / "cls", outputs={"cls": {"shape": [3], "dtype": "float32"}})
    with pytest.raises(ContractError, match="vae stores cls, no latents"):
        LatentShards(root)


def test_without_classes_every_label_is_0(tmp_path: Path) -> None:
    source = Pictures()
    source.classes = ()
    root = build(tmp_path, source=source)
    assert sorted(load_file(root / "shard_00000000.safetensors")) == ["latents"]
    latents, labels = LatentShards(root).batch(range(COUNT))
    np.testing.assert_array_equal(latents.numpy(), tensors(root)["latents"])
    assert labels.tolist() == [0] * COUNT


def test_a_manifest_that_is_missing_edited_or_not_complete_is_refused(plain: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(plain, tmp_path / "copy"))
    manifest = root / "manifest.json"
    good = json.loads(manifest.read_text())
    twice = [*good["shards"][:-1], good["shards"][0]]
    escaping = [{**good["shards"][0], "path": "../shard_00000000.safetensors"}, *good["shards"][1:]]
    for changes, words in (
        ({"complete": False}, "is not complete: go on with the run"),
        ({"kind": "latentkit.webdataset_shards"}, "its kind is"),
        ({"total": 59}, "total is not the sum"),
        ({"contract_sha256": "0" * 64}, "somebody edited it"),
        ({"contract": {**good["contract"], "scaled": True}}, "somebody edited it"),
        ({"shards": twice}, "lists a shard twice"),
        ({"shards": escaping}, "a file that is no shard"),
        ({"shards": [{}]}, "no manifest of latent shards"),
    ):
        manifest.write_text(json.dumps(good | changes))
        with pytest.raises(LatentkitError, match=words):
            LatentShards(root)
    for content in ("", "[]", "{}", "\xff"):
        manifest.write_text(content)
        with pytest.raises(LatentkitError, match="no manifest of latent shards"):
            LatentShards(root)
    manifest.unlink()
    for path in (root, root / "absent", root / "shard_00000000.safetensors"):
        with pytest.raises(UsageError, match="does not exist"):
            LatentShards(path)


def test_a_bad_shard_is_named(plain: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(plain, tmp_path / "copy"))
    path = root / "shard_00000002.safetensors"
    good = path.read_bytes()
    for content in (good[:-1], good + b"\0", b""):
        path.write_bytes(content)
        with pytest.raises(LatentkitError, match=r"shard_00000002\.safetensors has \d+ bytes, the manifest"):
            LatentShards(root)
    other = build(tmp_path / "other", input={"size": 9}) / path.name
    renamed = good.replace(b'"latents"', b'"LATENTS"')
    forged = (2**62).to_bytes(8, "little") + good[8:]
    short = good.replace(b"[16,4,3,2]", b"[16,4,2,3]").replace(b"[15,4,3,2]", b"[15,4,2,3]")
    for content, words in (
        (b"\xff" * len(good), "no safetensors header"),
        (forged, "no safetensors header"),
        (renamed, "it has no latents"),
        (other.read_bytes(), "of another contract"),
        (short, "its contract says float16"),
    ):
        assert len(content) == len(good)
        assert content != good
        path.write_bytes(content)
        dataset = LatentShards(root)
        assert dataset[0][0].shape == (4, 3, 2)
        with pytest.raises(LatentkitError, match=rf"shard_00000002\.safetensors is damaged: .*{words}"):
            dataset[40]
    for old, new, words in ((b'[\\"', b'{\\"', "Expecting"), (b'\\", \\"', b"-" * 6, "it has 14 keys")):
        assert old in good
        path.write_bytes(good.replace(old, new, 1))
        dataset = LatentShards(root, keys=True)
        with pytest.raises(LatentkitError, match=rf"shard_00000002\.safetensors is damaged: .*{words}"):
            dataset[40]
    path.unlink()
    with pytest.raises(LatentkitError, match=r"shard_00000002\.safetensors is missing"):
        LatentShards(root)


def test_a_shard_that_the_safetensors_package_wrote_reads_too(plain: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(plain, tmp_path / "copy"))
    expected = tensors(root)["latents"]
    path = root / "shard_00000001.safetensors"
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata)
    values = json.loads((root / "manifest.json").read_text())
    values["shards"][1]["bytes"] = path.stat().st_size
    (root / "manifest.json").write_text(json.dumps(values))
    np.testing.assert_array_equal(LatentShards(root).batch(range(COUNT))[0].numpy(), expected)
