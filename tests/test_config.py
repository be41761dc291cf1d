"""The configuration: every YAML composes and binds, and every mistake is one clear line."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from encode_process import Ended, run_here
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from latentkit.errors import UsageError
from latentkit.jobs.config import build, conf_dir, register
from latentkit.jobs.hardware import fill_vram
from latentkit.runtime.device import Device

CONF = conf_dir()
GROUPS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in CONF.iterdir()
    if group.is_dir()
}


EVALUATION = {"decoder", "experiment", "extractor", "metric", "protocol"}
"""The groups that only `latentkit.evaluate` has."""


EXPERIMENTS = {
    "sdvae_rfid_imagenet": (),
    "sdvae_card_coco": ("dataset.root=val2017",),
    "adm_50k": ("generated=samples.npz", "reference=VIRTUAL_imagenet256_labeled.npz"),
}
"""Published tables, and what a user has to give with each."""


def composed(*overrides: str, verb: str = "encode"):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, list(overrides))


def run(*arguments: str, cwd: Path) -> Ended:
    return run_here("encode", *arguments, cwd=cwd)


OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_yaml_composes_resolves_and_binds(
    group: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NNODES", "2")
    given = (
        ["dataset.root=photos"] if (group, option) == ("dataset", "folder") else EXPERIMENTS.get(option, ())
    )
    verb = "evaluate" if group in EVALUATION else "encode"
    cfg = composed(f"{group}={option}", *given, verb=verb)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    targets = 0
    for where, node in _targets(resolved):
        parameters = inspect.signature(get_class(node["_target_"])).parameters
        unknown = node.keys() - {"_target_"} - parameters.keys()
        assert not unknown, f"{where}: {unknown}"
        needed = {
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        }
        given = node.keys() | ({"name"} if where.startswith("encoders.") else set())
        assert needed <= given, f"{where}: {needed - given} not set"
        targets += 1
    assert targets >= 5


ABSENT = {
    ("dataset", "crawlr"): "data/approved does not exist",
    ("dataset", "imagenet"): "prepare",
    ("dataset", "imagenet_tree"): "imagenet1k_raw",
    ("trainer", "gpu"): "(?i)gpu|cuda",
    ("trainer", "ddp"): "(?i)gpu|cuda",
    ("trainer", "slurm"): "(?i)gpu|cuda",
}
"""What cannot be built in an empty folder without a GPU, and what the error names."""


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_yaml_builds_what_it_describes(
    group: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (8, 8)).save("photos/a.png")
    given = (
        ["dataset.root=photos"]
        if option == "sdvae_card_coco" or (group, option) == ("dataset", "folder")
        else []
    )
    given += [f"{name}=photos" for name in ("generated", "reference") if option == "adm_50k"]
    cfg = composed(f"{group}={option}", *given, verb="evaluate" if group in EVALUATION else "encode")
    fill_vram(cfg.vram, Device("cpu"))
    nodes = {
        "dataset": [("dataset", cfg.dataset, {})],
        "decoder": [("decoder", cfg.get("decoder"), {})],
        "encoder": [
            (f"encoders.{name}", node, {"name": name}) for name, node in cfg.get("encoders", {}).items()
        ],
        "extractor": [
            (f"extractors.{name}", node, {"name": name}) for name, node in cfg.get("extractors", {}).items()
        ],
        "metric": [(f"metrics.{name}", node, {}) for name, node in cfg.get("metrics", {}).items()],
        "store": [("store", cfg.store, {})],
        "caption": [("caption", cfg.get("caption"), {})],
        "trainer": [("trainer", cfg.trainer, {})],
        "weights": [("weights", cfg.weights, {})],
    }
    whole = [node for name in ("decoder", "encoder", "extractor", "metric", "store") for node in nodes[name]]
    for where, node, extra in nodes.get(group, whole):
        if not node:
            continue  # caption=none, or a group that the verb has not
        if (group, option) in ABSENT:
            with pytest.raises(Exception, match=ABSENT[group, option]):
                len(build(node, where, **extra))
        else:
            target = node["_target_"].rpartition(".")[2]
            assert type(build(node, where, **extra)).__name__ == target


def _targets(node: object, where: str = ""):
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from _targets(value, f"{where}.{key}".lstrip("."))


@pytest.mark.parametrize("dataset", ["demo", "folder", "crawlr", "imagenet", "imagenet_tree"])
def test_the_dataset_chooses_its_encoders_and_an_explicit_choice_wins(dataset: str) -> None:
    chosen = {
        "demo": ["dinov3", "flux_vae", "sd_vae", "t5"],
        "folder": ["dinov3", "flux_vae", "t5"],
        "crawlr": ["dinov3", "flux_vae", "t5"],
        "imagenet": ["sd_vae"],
        "imagenet_tree": ["sd_vae"],
    }
    assert list(composed(f"dataset={dataset}").encoders) == chosen[dataset]
    assert list(composed(f"dataset={dataset}", "encoder=[t5,sd_vae]").encoders) == ["t5", "sd_vae"]


def test_vram_is_pulled_whatever_the_order_and_an_explicit_value_wins() -> None:
    for overrides in itertools.permutations(["vram=high", "encoder=sd_vae", "dataset=demo"]):
        assert composed(*overrides).encoders.sd_vae.batch_size == 128
    assert composed("vram=low", "encoders.sd_vae.batch_size=5").encoders.sd_vae.batch_size == 5
    for profile in ("low", "high"):
        decoding = composed(f"vram={profile}", verb="evaluate")
        sizes = {"low": 8, "high": 64}[profile]
        assert decoding.decoder.batch_size == decoding.batch_size == sizes
        assert composed(f"vram={profile}", "decoder.batch_size=3", verb="evaluate").decoder.batch_size == 3


@pytest.mark.parametrize(("free", "picked", "size"), [(0, "low", 16), (39, "low", 16), (40, "high", 128)])
def test_auto_picks_when_the_run_starts_and_a_value_by_hand_stays(free: int, picked: str, size: int) -> None:
    cfg = composed("encoder=[sd_vae,t5]", "encoders.t5.batch_size=3", "vram.compile=false")
    assert cfg.encoders.sd_vae.batch_size is None
    fill_vram(cfg.vram, Device("cuda", free * 2**30))
    assert cfg.vram.profile == f"auto: {picked}"
    assert (cfg.encoders.sd_vae.batch_size, cfg.encoders.t5.batch_size) == (size, 3)
    assert (cfg.vram.compile, cfg.vram.channels_last) == (False, picked == "high")


def test_a_profile_that_an_encoder_does_not_know_is_one_clear_line() -> None:
    cfg = composed("encoder=sd_vae", "vram=low", "vram.profile=tiny")
    with pytest.raises(UsageError, match=r"^encoders\.sd_vae: vram=tiny: .* values for low, high only"):
        build(cfg.encoders.sd_vae, "encoders.sd_vae", name="sd_vae")


def test_an_encoder_is_one_yaml(tmp_path: Path) -> None:
    """No other file of conf/ has to know of it: not for its batch sizes, its architecture or its weights."""
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "wide_vae.yaml").write_text(
        "# @package encoders.wide_vae\n"
        "_target_: latentkit.encoders.Autoencoder\n"
        "model: someone/wide-vae\n"
        "architecture: {latent_channels: 32, block_out_channels: [128, 256, 512, 512, 512]}\n"
        "weights: ${weights}\n"
        "batch_size: ${by_vram:{low:2,high:24}}\n"
    )
    for profile, size in (("low", 2), ("high", 24)):
        chosen = ("encoder=wide_vae", "weights=random", f"vram={profile}")
        cfg = composed(f"hydra.searchpath=[file://{tmp_path}]", *chosen)
        encoder = build(cfg.encoders.wide_vae, "encoders.wide_vae", name="wide_vae")
        assert encoder.batch_size == size
        assert encoder.outputs == {"latents": {"shape": [32, 16, 16], "dtype": "float16"}}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_of_published_weights_and_says_what_it_lacks(experiment: str) -> None:
    given = EXPERIMENTS[experiment]
    cfg = composed(f"experiment={experiment}", *given, verb="evaluate")
    assert cfg.weights == composed("weights=pretrained", verb="evaluate").weights
    for missing in given:
        rest = [word for word in given if word != missing]
        cfg = composed(f"experiment={experiment}", *rest, verb="evaluate")
        with pytest.raises(OmegaConfBaseException, match=missing.partition("=")[0].rpartition(".")[2]):
            OmegaConf.select(cfg, missing.partition("=")[0], throw_on_missing=True)


def test_the_guide_to_evaluation_names_what_there_is() -> None:
    guide = (CONF.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    sets = set(GROUPS["protocol"])
    assert set(re.findall(r"^\| `(\w+)` \|", guide.partition("## What a number")[0], re.M)) == (
        set(GROUPS["metric"]) - sets
    )
    assert (
        set(re.findall(r"experiment=(\w+)", guide))
        == EXPERIMENTS.keys()
        == {*GROUPS["experiment"]} - {"none"}
    )
    assert all(f"`{protocol}`" in guide for protocol in sets)


def test_published_places() -> None:
    assert composed("dataset=crawlr").output_dir == "data/derived"
    crawlr = composed("dataset=crawlr").store
    assert (crawlr.folders.flux_vae, crawlr.folders.t5) == ("vae_latents", "t5_hidden")
    imagenet = composed("dataset=imagenet", "dataset.split=train")
    assert imagenet.output_dir == "outputs/datasets/imagenet1k_train_sdvae_latents_shards"
    assert imagenet.store.shard_size == 10000
    assert composed("dataset=imagenet", "shard_size=7").store.shard_size == 7


MISTAKES = {
    ("datset=demo",): ["datset", "dataset"],
    ("dataset=demos",): ["demos", "demo", "folder", "crawlr", "imagenet"],
    ("limt=3",): ["limt", "limit"],
    ("limit=three",): ["limit", "three"],
    ("limit=0",): ["limit", "0"],
    ("max_failures=2",): ["max_failures", "share"],
    ("encoder=clip",): ["clip", "dinov3", "flux_vae", "sd_vae", "t5"],
    ("encoder=[t5,clip]",): ["clip", "dinov3"],
    ("encoder=null",): ["encoder/null", "dinov3", "sd_vae"],
    ("-m", "vram=low,null"): ["vram/null", "auto", "high", "low"],
    ("encoders.dinov3.patchs=true",): ["patchs", "patches"],
    ("encoders.dinov3.patches=17",): ["patches", "17", "bool"],
    ("encoders.sd_vae.crop=round",): ["crop", "round", "adm"],
    ("encoders.sd_vae.precision=fp8",): ["precision", "fp8", "16-mixed"],
    ("vram=tiny",): ["tiny", "auto", "high", "low"],
    ("encoders.t5.batch_size=many",): ["t5", "many"],
    ("weights.size=huge",): ["size", "huge", "small", "real"],
    ("store=zip",): ["zip", "npy", "shards"],
    ("dataset=folder",): ["dataset.root"],
    ("dataset=folder", "dataset.root=nowhere"): ["nowhere"],
    ("dataset=imagenet_tree", "dataset.root=nowhere", "weights=random"): ["nowhere"],
    ("dataset=imagenet", "weights=random"): ["latentkit.prepare", "imagenet_tree"],
    ("dataset=imagenet", "dataset.split=test"): ["test", "train", "val"],
    ("dataset=crawlr", "dataset.root=nowhere", "weights=random"): ["nowhere"],
    ("trainer.accelerator=gpu",): ["gpu", "cpu"],
    ("trainer=tpu",): ["tpu", "cpu", "gpu"],
    ("dataset=demo", "-m", "encoder=t5"): ["-m", "encoder=t5"],
    ("--config-dir", "nowhere"): ["nowhere", "not found"],
    ("limit=[",): ["["],
    ("dataset=folder", "dataset.root=~/photos"): ["quote", "$HOME"],
    ("dataset=folder", "dataset.root="): ["dataset.root is empty"],
    ("output_dir=",): ["output_dir is empty"],
    ("=3",): ["no key"],
    ("dataset=folder", "dataset.root=.", "encoder=colours"): ["colours", "sd_vae"],
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_clear_line_and_exit_status_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("latentkit: ")
    for word in MISTAKES[arguments]:
        assert word in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_answers_come_without_torch(tmp_path: Path) -> None:
    """--help, --cfg job and mistakes answer fast because nothing heavy is imported for them."""
    for arguments in (["--help"], ["--cfg", "job"], ["limt=3"], ["dataset=folder", "dataset.root=nowhere"]):
        command = [sys.executable, "-X", "importtime", "-m", "latentkit.encode", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if "|" in line}
        assert "hydra" in imported
        heavy = {"torch", "lightning", "transformers", "diffusers", "torchvision"}
        assert not imported & heavy, arguments


def test_help_names_every_group_and_key(tmp_path: Path) -> None:
    ended = run("--help", cwd=tmp_path)
    assert ended.returncode == 0
    for group, options in GROUPS.items():
        assert f"{group}: {', '.join(options)}" in ended.stdout
    for key in (
        "output_dir",
        "limit",
        "dry_run",
        "overwrite",
        "max_failures",
        "retry_quarantined",
        "shard_size",
        "seed",
    ):
        assert key in ended.stdout


def test_a_user_who_wants_the_traceback_gets_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentkit.encode", "dataset=folder", "dataset.root=nowhere"]
    environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert ended.returncode != 0
    assert "Traceback" in ended.stderr


def test_build_names_the_option_and_what_there_is() -> None:
    target = "latentkit.sources.DemoSource"
    with pytest.raises(UsageError, match=r"dataset\.pictres: no such option; there are .*pictures"):
        build({"_target_": target, "pictres": 3}, "dataset")
    with pytest.raises(UsageError, match=r"dataset\.pictures='many': expected int"):
        build({"_target_": target, "pictures": "many"}, "dataset")
    with pytest.raises(UsageError, match=r"cannot import no\.such\.thing"):
        build({"_target_": "no.such.thing"}, "dataset")
    with pytest.raises(UsageError, match="_target_"):
        build({"pictures": 3}, "dataset")
