"""Every verb as a command: help, configuration, mistakes in one line; and the scripts over the verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from encode_process import Ended, run_here, run_verb
from PIL import Image
from recipes import photo

from latentkit.jobs.schemas import ROOTS

REPO = Path(__file__).parents[1]
LIGHT = ["sync", "migrate", "verify", "prune", "shard", "caption"]

WRONG = {
    ("sync", "connections=0"): "connections=0",
    ("sync", "base_url=ftp://host/list"): "http or https",
    ("sync", "max_share=2"): "a share",
    ("sync", "dataset=folder", "dataset.root=."): "dataset=crawlr",
    ("migrate",): "approved_image_dataset.jsonl is not there",
    ("verify", "vram=low"): "no such group",
    ("verify", "dataset=folder"): "dataset.root is not set",
    ("verify", "mode=fast"): "choose one of full, quick",
    ("verify", "report=nowhere/findings.json"): "there is no folder nowhere",
    ("prune", "max_share=-1"): "a share",
    ("prune", "restore=true", "dry_run=true"): "no dry run",
    ("prune",): "data/approved does not exist",
    ("shard", "shard_size=0"): "shard_size=0",
    ("shard",): "encode first",
    ("encode", "dataset=crawlr", "store=shards"): "dataset.records is taken from store.records",
    ("verify", "dataset=crawlr", "store=shards"): "choose another store, or give dataset.records=VALUE",
    ("sync", "store=shards"): "choose another store, or give store.shard_size=VALUE",
    ("caption",): "caption=openai",
    ("caption", "caption=openai"): "data/approved does not exist",
}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("verb", ROOTS)
def test_help_names_the_keys_of_the_verb_and_leaves_nothing(verb: str, tmp_path: Path) -> None:
    said = run_here(verb, "--help", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert f"python -m latentkit.{verb}" in said.stdout
    for name in ROOTS[verb].__dataclass_fields__:
        if name not in ("weights", "shard_size"):
            assert name in said.stdout, f"--help does not tell of {name}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", LIGHT)
def test_a_light_verb_composes_without_torch(verb: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['{verb}', '--cfg', 'job']\n"
        f"import latentkit.{verb} as verb\n"
        "try:\n    verb.main()\n"
        "finally:\n    assert 'torch' not in sys.modules, 'torch was imported'"
    )
    said = run("-c", code, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("dataset:")


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments: tuple[str, ...], tmp_path: Path) -> None:
    verb, *values = arguments
    said = run_here(verb, *values, cwd=tmp_path)
    assert said.returncode == 2, said.stderr
    assert WRONG[arguments] in said.stderr
    assert len(said.stderr.splitlines()) == 1, said.stderr
    assert list(tmp_path.iterdir()) == []


EARLY = [
    *((verb, "omegaconf", "SIGINT") for verb in ROOTS),
    ("verify", "hydra", "SIGTERM"),
    ("verify", "latentkit.jobs.composition", "SIGINT"),
    ("verify", "latentkit.jobs.schemas", "SIGINT"),
    ("verify", "latentkit.jobs.collection", "SIGINT"),
    ("encode", "latentkit.jobs.encoding", "SIGINT"),
]


@pytest.mark.parametrize(("verb", "module", "signal"), EARLY)
def test_a_signal_while_the_libraries_load_is_one_line(
    verb: str, module: str, signal: str, tmp_path: Path
) -> None:
    """The process signals itself as soon as it asks for a module."""
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == '{module}':\n"
        f"            os.kill(os.getpid(), signal.{signal})\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.argv = ['{verb}', 'output_dir=out']\n"
        f"runpy.run_module('latentkit.{verb}', run_name='__main__')"
    )
    said = run("-c", code, cwd=tmp_path)
    assert (said.returncode, said.stderr) == (130, "latentkit: interrupted; what was published is whole\n")
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_is_told_with_the_right_one(tmp_path: Path) -> None:
    said = run_here("sync", "prun=true", cwd=tmp_path)
    assert (said.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "did you mean prune?" in said.stderr


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two approved photos, a broken link, and a Stage 1 record, in a folder whose name has to be quoted."""
    work = tmp_path / "Ann's photos, 2024"
    for folder in ("raw", "approved", "derived"):
        (work / "data" / folder).mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(photo(0, 40, 40)).save(work / "data/raw" / name, "JPEG")
        (work / f"data/approved/{name}.jpg").symlink_to(f"../raw/{name}")
    (work / "data/approved/gone.jpg").symlink_to("../raw/gone")
    record = {"image_path": "data/approved/a.jpg", "dinov3_embedding": [0.5] * 1024, "caption": "A field."}
    (work / "data/derived/approved_image_dataset.jsonl").write_text(json.dumps(record) + "\n")
    return work


def script(name: str, *arguments: str | Path, cwd: Path) -> Ended:
    return run_verb(str(REPO / "scripts" / f"{name}.py"), *map(str, arguments), cwd=cwd)


def test_the_scripts_do_what_the_verbs_do(library: Path, tmp_path: Path) -> None:
    generate = "generate_approved_image_dataset"
    derived = library / "data/derived"
    dry = script(generate, "--pass", "migrate", "--dry-run", cwd=library)
    assert dry.returncode == 0, dry.stderr
    assert not (derived / "dinov3").exists()
    elsewhere = script(generate, "--pass", "migrate", "--output-dir", derived, cwd=tmp_path)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert (derived / "dinov3/a.npy").exists()
    hub = script(generate, "--pass", "vae", "--limit", "1", "--progress-every", "1", cwd=library)
    assert hub.returncode == 1
    assert "FLUX.1-dev" in hub.stderr

    listed = script("prune_dataset", "--dry-run", cwd=library)
    assert "gone.jpg" in listed.stdout
    assert (library / "data/approved/gone.jpg").is_symlink()
    pruned = script("prune_dataset", "--verbose", "--max-share", "0.5", cwd=library)
    assert pruned.returncode == 0, pruned.stderr
    assert "gone.jpg" in pruned.stdout
    assert not (library / "data/approved/gone.jpg").is_symlink()
    assert script("prune_dataset", "--restore", cwd=library).returncode == 0
    assert (library / "data/approved/gone.jpg").is_symlink()

    tars = script("create_webdataset_shards", "--shard-size", "5", "--bucket", "none", cwd=library)
    assert tars.returncode == 0, tars.stderr
    assert len(list((library / "data/shards/bucket_none").glob("*.tar"))) == 1

    unreachable = script("sync_approved_photos", "--base-url", "http://127.0.0.1:9/l.json", cwd=library)
    assert unreachable.returncode in (1, 2)
    assert "127.0.0.1:9" in unreachable.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("generate_approved_image_dataset", ["--pass", "flux"]),
        ("sync_approved_photos", ["--limit", "many"]),
        ("create_webdataset_shards", ["--shardsize", "5"]),
        ("prune_dataset", ["extra"]),
    ],
)
def test_a_script_refuses_what_it_does_not_know(name: str, arguments: list[str], tmp_path: Path) -> None:
    said = script(name, *arguments, cwd=tmp_path)
    assert said.returncode == 2
    assert "usage:" in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_requirements_file_names_the_package_itself_and_the_tested_versions() -> None:
    requirements = REPO / "scripts" / "requirements-approved-image-embeddings.txt"
    lines = [line for line in requirements.read_text().splitlines() if not line.startswith("#")]
    options = dict(line.split(maxsplit=1) for line in lines)
    assert options.keys() == {"-c", "-e"}
    # pip takes a constraints file relative to the requirements, an editable path relative to where it runs.
    assert (requirements.parent / options["-c"]).resolve() == REPO / "constraints.txt"
    with (REPO / options["-e"] / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["name"] == "latentkit"
