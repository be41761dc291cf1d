"""ImageNet to latents as a user types it: from archives or tree, mirrored, verified, read for training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encode_process import run_verb
from miniature_imagenet import WNIDS, Miniature
from miniature_preparation import preparation
from PIL import Image
from safetensors.numpy import load_file

from latentkit.encoders import Autoencoder, Random
from latentkit.pixels import AdmCrop
from latentkit.sources.imagenet.index import read_index
from latentkit.sources.imagenet.official import OFFICIAL, Official
from latentkit.stores import LatentShards

OPTIONS = (
    *("dataset.split=train", "weights=random", "flip=true", "shard_size=250", "workers=1"),
    *("encoders.sd_vae.size=32", "encoders.sd_vae.batch_size=50"),
)
OUT = Path("outputs/datasets/imagenet1k_train_sdvae_latents_shards")
INDEX = Path("outputs/datasets/imagenet1k_train_index.safetensors")


@pytest.fixture
def work(miniature: Miniature, official: dict[str, Official]) -> Path:
    """``outputs/datasets`` with the index, and the extracted tree."""
    preparation(miniature, official).run()
    work = miniature.folder.parent
    (work / "out").rename(work / "datasets")
    (work / "outputs").mkdir()
    (work / "datasets").rename(work / "outputs" / "datasets")
    for name, content in miniature.files().items():
        path = work / "outputs" / "datasets" / "imagenet1k_raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return work


def test_archives_and_tree_give_the_same_bytes(work: Path, miniature: Miniature) -> None:
    for dataset, out in (("imagenet", OUT), ("imagenet_tree", Path("tree"))):
        ended = run_verb("encode", f"dataset={dataset}", *OPTIONS, f"output_dir={out}", cwd=work)
        assert ended.returncode == 0, ended.stderr
        assert "on the way: cmyk 1, greyscale 1, png named .JPEG 1\n" in ended.stderr
        for mode in ("quick", "full"):
            arguments = (f"dataset={dataset}", "dataset.split=train", f"output_dir={out}", f"mode={mode}")
            ended = run_verb("verify", *arguments, cwd=work)
            assert ended.returncode == 0, ended.stderr
            assert "600 pictures, 3 shards read" in ended.stderr
    shards = sorted((work / OUT).glob("*.safetensors"))
    assert [len(load_file(path)["labels"]) for path in shards] == [250, 250, 100]
    for path in shards:
        assert path.read_bytes() == (work / "tree" / path.name).read_bytes()
    ended = run_verb("verify", "dataset=imagenet", "dataset.split=val", f"output_dir={OUT}", cwd=work)
    assert ended.returncode == 2
    assert "holds split=train, not val" in ended.stderr

    dataset = LatentShards(work / OUT, allow_random=True, flip=False, keys=True)
    assert dataset.classes == tuple(sorted(WNIDS))
    assert len(dataset.class_names) == 20
    by_key = {
        f"train/{wnid}/{name.removesuffix('.JPEG')}": content
        for wnid, names in miniature.train.items()
        for name, content in names.items()
    }
    assert [key for _, _, key in dataset] == sorted(by_key, key=lambda key: key.encode())
    assert {(key.split("/")[1], int(label)) for _, label, key in dataset} == set(
        zip(sorted(WNIDS), range(20), strict=True)
    )

    encoder = Autoencoder(name="sd_vae", model="", size=32, weights=Random())
    network, crop = encoder.load(), AdmCrop(size=32)
    mirrored = np.concatenate([load_file(path)["latents_flip"] for path in shards])
    for index in (0, 33, 299, 599):
        latents, _, key = dataset[index]
        (work / "one.jpg").write_bytes(by_key[key])
        pixels = crop(np.array(Image.open(work / "one.jpg").convert("RGB")))
        with torch.inference_mode():
            upright = network(torch.from_numpy(pixels[None]))["latents"][0]
            flipped = network(torch.from_numpy(pixels[None, :, ::-1].copy()))["latents"][0]
        torch.testing.assert_close(latents, upright, rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(mirrored[index]), flipped, rtol=2e-3, atol=1e-4)
    contract = json.loads((work / OUT / "manifest.json").read_text())["contract"]
    assert contract["input"]["flip"] == "the cropped picture mirrored"
    check_that_an_official_archive_s_index_is_held_to_the_official_figures(work)


def check_that_an_official_archive_s_index_is_held_to_the_official_figures(work: Path) -> None:
    """No hash covers the index: one that lost rows would call a part of ImageNet the whole."""
    verify = ("verify", "dataset=imagenet", "dataset.split=train", "report=findings.json", "fix=true")
    index = read_index(work / INDEX)
    named = dataclasses.replace(index.archive, md5=OFFICIAL["train"].md5)
    content = dataclasses.replace(index, archive=named).content()
    (work / INDEX).write_bytes(content)
    assert run_verb(*verify, cwd=work).returncode == 1
    found = json.loads((work / "findings.json").read_text())["findings"]
    assert {(found["kind"], found["detail"]) for found in found} == {
        ("index", "20 classes, the official archive has 1,000"),
        ("index", "600 pictures, the official archive has 1,281,167"),
    }


def test_flip_without_an_encoder_that_has_it_is_refused(work: Path) -> None:
    ended = run_verb("encode", "dataset=imagenet", "encoder=dinov3", *OPTIONS[1:3], cwd=work)
    assert ended.returncode == 2
    assert ended.stderr == "latentkit: flip=true: dinov3 stores no mirrored latents, sd_vae does\n"
