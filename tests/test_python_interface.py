"""Verbs as functions: called one after the other in one Python, as in a notebook."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from recipes import photo

import latentkit
from latentkit.errors import LatentkitError, UsageError
from latentkit.jobs.command import run
from latentkit.jobs.config import conf_dir

REPO = Path(__file__).parents[1]
SMALL = ("dataset=folder", "weights=random", "encoder=sd_vae", "encoders.sd_vae.size=32", "workers=0")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three pictures in a folder whose name the command line would have to quote."""
    folder = tmp_path / "Ann's photos, 2024"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(photo(number, 40, 48)).save(folder / f"p{number}.jpg")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_notebook_encodes_verifies_evaluates_and_goes_on(place: Path) -> None:
    where = {"dataset.root": place, "output_dir": Path("out")}
    planned = latentkit.encode(*SMALL, dry_run=True, **where)
    assert [(part["encoder"], part["todo"]) for part in planned["encoders"]] == [("sd_vae", 3)]
    assert not Path("out").exists()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    arguments = list(sys.argv)

    summary = latentkit.encode(*SMALL, limit=2, **where)
    assert summary == json.loads(Path("out/summary.json").read_text())
    assert (summary["status"], summary["encoders"][0]["done"]) == ("done", 2)
    summary = latentkit.encode(*SMALL, limit=None, **where)
    assert (summary["encoders"][0]["done"], summary["encoders"][0]["skipped"]) == (1, 2)

    found = latentkit.verify("dataset=folder", **where)
    assert (found["ok"], found["arrays"]) == (True, 3)
    Path("out/sd_vae/p1.npy").write_bytes(b"")
    found = latentkit.verify("dataset=folder", **where)
    assert (found["ok"], len(found["findings"])) == (False, 1)
    assert latentkit.verify("dataset=folder", fix=True, **where)["set_aside"] == 1
    assert latentkit.encode(*SMALL, **where)["encoders"][0]["done"] == 1

    (place / "p2.jpg").unlink()
    assert latentkit.prune("dataset=folder", dry_run=True, max_share=1, **where)["would_remove"]["array"] == 1
    assert latentkit.prune("dataset=folder", max_share=1, **where)["removed"]["array"] == 1
    assert latentkit.prune("dataset=folder", restore=True, **where)["restored"] >= 1

    generated = {"generated": place, "reference": place, "metric": ["fid"], "crop": "none"}
    report = latentkit.evaluate("weights=random", "workers=0", **generated, report_dir="report")
    assert json.loads(json.dumps(report)) == json.loads(Path("report/report.json").read_text())
    assert report["results"]["fid"] == pytest.approx(0, abs=1e-3)

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert (sys.argv, "HYDRA_FULL_ERROR" in os.environ) == (arguments, False)


def test_the_readme_s_code_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place.rename("PHOTOS")
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- tested: from Python -->\n```python\n(.*?)```", readme, re.DOTALL)
    exec(block.replace("limit=100", 'limit=2, weights="random"'), {})
    assert capsys.readouterr().out == "2 pictures in outputs/PHOTOS\n"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["limt=3"], ["limt", "did you mean limit?"]),
        (["encoder=clip"], ["clip", "sd_vae"]),
        (["encoder=null"], ["encoder/null", "sd_vae"]),
        (["dataset=folder"], ["dataset.root is not set"]),
        (["limit=three"], ["limit", "three"]),
        (["limit=0"], ["limit=0"]),
        (["-m", "seed=1,2"], ["-m", "command line"]),
        (["limit=["], ["limit=["]),
    ],
)
def test_a_mistake_is_raised_in_one_line(overrides: list[str], words: list[str], place: Path) -> None:
    with pytest.raises(UsageError) as caught:
        latentkit.encode(*overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert [path.name for path in Path().iterdir()] == [place.name]


def test_what_fails_is_raised(place: Path) -> None:
    (place / "p0.jpg").write_bytes(b"")
    where = {"dataset.root": place, "output_dir": "out"}
    with pytest.raises(LatentkitError, match="max_failures"):
        latentkit.encode(*SMALL, **where)
    summary = latentkit.encode(*SMALL, max_failures=1, **where)
    assert [bad["key"] for bad in summary["quarantine"]] == ["p0"]


def test_the_callers_own_hydra_is_left_as_it_was(place: Path) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        latentkit.encode("encoder=t5", "limit=1", "dry_run=true")
        with pytest.raises(UsageError):
            latentkit.encode("limt=1")
        assert run("encode", ["encoder=t5", "limit=1", "dry_run=true"]) == 0
        assert GlobalHydra.instance().hydra is mine
        assert compose("encode", ["limit=7"]).limit == 7
    assert not HydraConfig.initialized()


def test_a_command_in_this_process_prints_what_it_would_and_returns_its_status(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("encode", ["--help"]) == 0
    assert "python -m latentkit.encode" in capsys.readouterr().out
    assert run("encode", ["limt=3"]) == 2
    assert capsys.readouterr().err.startswith("latentkit: limt: no such key")
    assert run("encode", ["-m", "encoder=t5,sd_vae", "limit=0,1", "dry_run=true"]) == 2
    assert capsys.readouterr().err.count("dry_run=true: nothing was touched") == 2


def test_it_works_outside_the_main_thread(place: Path) -> None:
    done = []
    where = {"dataset.root": place, "output_dir": "out"}
    thread = threading.Thread(target=lambda: done.append(latentkit.encode(*SMALL, **where)["status"]))
    thread.start()
    thread.join()
    assert done == ["done"]


def test_a_folder_of_ones_own_configuration(place: Path) -> None:
    folder = Path("conf/encoder")
    folder.mkdir(parents=True)
    text = (conf_dir() / "encoder" / "sd_vae.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace("encoders.sd_vae", "encoders.mine"))
    where = {"dataset.root": place, "output_dir": "out", "encoders.mine.size": 32}
    latentkit.encode("dataset=folder", "weights=random", "encoder=mine", config_dir="conf", **where)
    assert np.load("out/mine/p0.npy").shape == (4, 4, 4)
    with pytest.raises(UsageError, match="mine"):
        latentkit.encode("encoder=mine")


IMPORTS = [
    "import latentkit; verb = latentkit.encode",
    "import latentkit.encode; verb = latentkit.encode",
    "from latentkit import encode as verb",
    "import latentkit.jobs.command; import latentkit.encode as verb",
    "import latentkit; import latentkit.encode; verb = latentkit.encode",
]


@pytest.mark.parametrize("imports", IMPORTS)
def test_a_verb_is_a_module_and_a_function_however_it_is_imported(imports: str, tmp_path: Path) -> None:
    code = f"""
import sys
{imports}
heavy = {{"torch", "hydra", "omegaconf", "numpy"}} & {{*sys.modules}}
assert not heavy, heavy
assert callable(verb) and callable(verb.main)
assert "dataset=folder" in verb.__doc__
import latentkit
assert verb is latentkit.encode is sys.modules["latentkit.encode"]
assert set(latentkit.VERBS) <= set(dir(latentkit))
try:
    verb("limt=3")
except latentkit.errors.UsageError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("limt: no such key")


@pytest.mark.parametrize("verb", latentkit.VERBS)
def test_every_verb_can_be_called(verb: str, place: Path) -> None:
    with pytest.raises(UsageError, match="no_such_key"):
        getattr(latentkit, verb)("no_such_key=1")
