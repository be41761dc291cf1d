"""`latentkit.evaluate` on the command line: whose weights, where a report goes, mistakes in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from encode_process import run_here
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from latentkit.evaluate import with_weights
from latentkit.jobs.config import conf_dir, register

REPO = Path(__file__).parents[2]
MODULE = ("-m", "latentkit.evaluate")
SCRIPT = ("-c", "from latentkit.evaluate import main; main()")
"""What an installed ``latentkit-evaluate`` does."""


def run(*arguments: str, cwd: Path, way: tuple[str, ...] = MODULE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *way, *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    """Report folders' names of paths, in a current folder ``/tmp``."""
    register()
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        patch.chdir("/tmp")
        cfg = compose("evaluate")
        found = {}
        for path in NAMES:
            cfg.generated = path
            found[path] = cfg.report_dir.removeprefix("outputs/evaluations/")
        return found


NAMES = {
    "samples": "samples",
    "samples.npz": "samples.npz",
    "samples.safetensors": "samples.safetensors",
    "cfg1.5": "cfg1.5",
    "cfg1.75": "cfg1.75",
    "a/samples.npz": "a+samples.npz",
    "b/samples.npz": "b+samples.npz",
    "a+samples.npz": "a%2Bsamples.npz",
    "a%2Bsamples.npz": "a%252Bsamples.npz",
    "a-samples.npz": "a-samples.npz",
    "runs/x/manifest.json": "runs+x",
    "runs/y/manifest.json": "runs+y",
    "lr=1e-4, seed 0": "lr=1e-4%2C%20seed%200",
    "größe": "gr%C3%B6%C3%9Fe",
    "tmp/samples": "tmp+samples",
    "/data/samples": "+data+samples",
    "data/samples": "data+samples",
    ".": "+tmp",
    "..": "+",
}


def test_a_report_goes_by_the_path_and_no_two_paths_share_one(names: dict[str, str]) -> None:
    assert names == NAMES
    assert len({*names.values()}) == len(names)


def test_ways_to_write_one_path_lead_to_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("evaluate")
    for path in (
        "link/x",
        "./link/x",
        "link//x/",
        "disk/../link/x",
        f"{tmp_path}/link/x",
        "link/x/manifest.json",
    ):
        cfg.generated = path
        assert cfg.report_dir == "outputs/evaluations/link+x", path


ADDED = "weights=pretrained"
WORDS = {
    "": "",
    "limit=3": "limit=3",
    "generated=": "generated=",
    "generated=null": "generated=null",
    "reference=x": "reference=x",
    "generated=x": f"{ADDED} generated=x",
    "++generated=x": f"{ADDED} ++generated=x",
    "-m generated=x,y seed=0,1": f"-m {ADDED} generated=x,y seed=0,1",
    "seed=0 generated=x -m": f"seed=0 {ADDED} generated=x -m",
    "--cfg job -p weights generated=x": f"--cfg job -p weights {ADDED} generated=x",
    "generated=x weights.local_files_only=true": f"{ADDED} generated=x weights.local_files_only=true",
    "generated=x weights=random": "generated=x weights=random",
    "dataset=imagenet generated=x": "dataset=imagenet generated=x",
    "experiment=adm_50k generated=x": "experiment=adm_50k generated=x",
}


@pytest.mark.parametrize("typed", WORDS)
def test_published_weights_are_added_to_what_was_typed(typed: str) -> None:
    assert with_weights(typed.split()) == WORDS[typed].split()


@pytest.mark.parametrize("way", [MODULE, SCRIPT], ids=["module", "script"])
def test_the_configuration_that_is_shown_has_the_weights_that_are_used(
    way: tuple[str, ...], tmp_path: Path
) -> None:
    shown = {}
    for words in ("generated=x weights.local_files_only=true", "generated=x weights=random", "seed=0"):
        said = run("--cfg", "job", "--resolve", *words.split(), cwd=tmp_path, way=way)
        assert said.returncode == 0, said.stderr
        config = OmegaConf.create(said.stdout)
        shown[words] = config.weights
        assert config.extractors.inception.weights == config.decoder.weights == config.weights
    pretrained, *random = shown.values()
    assert pretrained == {"_target_": "latentkit.encoders.Pretrained", "local_files_only": True}
    assert all(weights._target_ == "latentkit.encoders.Random" for weights in random)
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "genrated=x": "genrated: no such key, did you mean generated?",
    "protocol=admm": "there are adm, torch_fidelity",
    "metric=[fid,kidd]": "could not find metric/kidd",
    "metric=fid,kid": "metric=fid,kid: a list is written metric=[fid,kid]; a run for each needs the flag -m",
    "metrics.fid.foo=1": "metrics.fid.foo: no such key",
    "generated=": "an empty path",
    "generated=cfg=1.5": "generated=cfg=1.5: mismatched input '=' expecting <EOF> (quote",
    "limit=abc": "limit=abc: Value 'abc'",
    "generated=x weights.local_file=true": "did you mean local_files_only?",
    "generated=x -m seed=1": "put flags before all key=value arguments, or after all of them",
    "--limit 3": "--limit: no such flag; a value is given as limit=VALUE",
    "--save-images": "a value is given as save_images=VALUE",
    "--resolve": "--resolve goes with --cfg job",
    "-m --cfg job": "leave out -m",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(typed: str, tmp_path: Path) -> None:
    ended = run_here("evaluate", *typed.split(), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("latentkit: ")
    assert MISTAKES[typed] in line
    assert list(tmp_path.iterdir()) == []
