"""The guide to ImageNet over the miniature: its commands run, its messages come, its code reads."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encode_process import run_verb
from miniature_imagenet import Miniature, tar_bytes, write_miniature
from safetensors.numpy import load_file

from latentkit.sources import ImageNetTree
from latentkit.sources.imagenet.official import OFFICIAL

GUIDE = Path(__file__).parents[1].joinpath("docs", "imagenet.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"<!-- tested: (.+?) -->\n```python\n(.*?)```", GUIDE, re.DOTALL))
COMMANDS = re.findall(
    r"^python -m latentkit\.(\w+)(.*)$", "".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)), re.M
)
SMALL = ("weights=random", "encoders.sd_vae.size=32", "workers=1", "encoders.sd_vae.batch_size=50")
OUT = "outputs/datasets/imagenet1k_{}_sdvae_latents_shards"


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return write_miniature(tmp_path_factory.mktemp("guide") / "data")


@pytest.fixture(scope="module")
def work(miniature: Miniature) -> Path:
    """The archives in ``data``, prepared; the training latents as moments, mirrored too."""
    work = miniature.folder.parent
    assert run_verb("prepare", "allow_variant=true", cwd=work).returncode == 0
    ended = run_verb("encode", *encode_commands()[0], *SMALL, "shard_size=400", cwd=work)
    assert ended.returncode == 0, ended.stderr
    return work


def encode_commands() -> list[list[str]]:
    """Arguments of the guide's encode commands on one device; first DiT's."""
    found = [shlex.split(line, comments=True) for verb, line in COMMANDS if verb == "encode"]
    found = [arguments for arguments in found if not any(word.startswith("trainer") for word in arguments)]
    return sorted(
        found, key=lambda arguments: not {"flip=true", "encoders.sd_vae.posterior=moments"} <= set(arguments)
    )


def test_every_command_is_one_of_the_package(work: Path) -> None:
    commands = encode_commands()
    assert len(commands) >= 6
    for number, arguments in enumerate(commands):
        ended = run_verb("encode", *arguments, *SMALL, "dry_run=true", f"output_dir=new{number}", cwd=work)
        assert ended.returncode == 0, (arguments, ended.stderr)
        assert "to encode" in ended.stderr
    verifications = [shlex.split(line, comments=True) for verb, line in COMMANDS if verb == "verify"]
    assert len(verifications) >= 3
    for arguments in verifications:
        ended = run_verb("verify", *arguments, cwd=work)
        assert ended.returncode == 0, (arguments, ended.stderr)


def test_what_is_to_be_downloaded_is_what_prepare_looks_for() -> None:
    rows = re.findall(r"^\| `(ILSVRC2012_\S+)` \| .+? \| (.+?) \| `(\w{32})` \|$", GUIDE, re.MULTILINE)
    assert {(name, md5) for name, _, md5 in rows} == {(o.filename, o.md5) for o in OFFICIAL.values()}
    for official in OFFICIAL.values():
        (size,) = (size for name, size, _ in rows if name == official.filename)
        assert official.size in (None, int(size.replace(",", "")))


def test_wrong_archives_are_told_in_the_words_of_the_guide(miniature: Miniature, tmp_path: Path) -> None:
    train = miniature.train_tar.read_bytes()
    tree = "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG"
    wrong = {
        "a download that broke off": train[:700_001],
        "a page in place of the file": b"<!DOCTYPE html><html>",
        "`val` under the name of `train`": miniature.val_tar.read_bytes(),
        "the face-blurred variant": gzip.compress(tar_bytes({"train_blurred/": b""})),
        "a tar of an extracted tree": tar_bytes({tree: b"picture"}),
        "some of the classes": train,
    }
    rows: dict[str, Any] = dict(re.findall(r"^\| (.+?) \| `(It looks like .+)` \|$", GUIDE, re.MULTILINE))
    assert wrong.keys() == rows.keys()
    for name, content in wrong.items():
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(content)
        ended = run_verb("prepare", "archives.folder=.", cwd=tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.endswith(f"{rows[name]}\n"), ended.stderr


def test_kaggle_s_validation_pictures_are_sorted_by_its_list(miniature: Miniature, tmp_path: Path) -> None:
    (script,) = (block for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) if "mkdir" in block)
    root = tmp_path / "ILSVRC/Data/CLS-LOC"
    (root / "val").mkdir(parents=True)
    lines = ["ImageId,PredictionString"]
    for name, content in miniature.val.items():
        (root / "val" / name).write_bytes(content)
        lines.append(f"{name.removesuffix('.JPEG')},{miniature.val_wnid[name]} 1 2 30 40 ")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True)
    source = ImageNetTree(root=str(root), split="val")
    assert set(source.keys()) == {
        path.removesuffix(".JPEG") for path in miniature.files() if path.startswith("val/")
    }


def test_the_training_code_reads_scaled_draws(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    names: dict[str, Any] = {}
    exec(CODE["training"].replace("scaled=True,", "scaled=True, allow_random=True,"), names)
    latents, labels = names["latents"], names["labels"]
    assert (latents.dtype, latents.shape, labels.shape) == (torch.float32, (256, 4, 4, 4), (256,))
    shards = [load_file(path) for path in sorted(Path(OUT.format("train")).glob("*.safetensors"))]
    assert sorted(label for shard in shards for label in shard["labels"]) == [k // 30 for k in range(600)]
    upright, mirrored = (np.concatenate([s[name] for s in shards]) for name in ("latents", "latents_flip"))
    dataset = names["dataset"]
    for index in range(0, 600, 40):
        drawn = dataset[index][0].numpy() / 0.18215
        scores = [
            np.abs((drawn - moments[index][:4]) / np.exp(moments[index][4:].astype(np.float64) / 2))
            for moments in (upright, mirrored)
        ]
        assert min(score.max() for score in scores) < 6  # 64 draws of a standard normal


def test_the_code_for_mean_and_deviation(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    names: dict[str, Any] = {}
    exec(CODE["mean and deviation"], names)
    moments = load_file(f"{OUT.format('train')}/shard_00000000.safetensors")["latents"].astype(np.float64)
    np.testing.assert_array_equal(names["mean"], moments[:, :4])
    np.testing.assert_allclose(names["deviation"], np.sqrt(np.exp(moments[:, 4:])), rtol=1e-6)
    contract = json.loads(Path(OUT.format("train"), "manifest.json").read_text())["contract"]
    assert contract["stored"] == "moments"
