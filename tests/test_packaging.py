"""What is built and installed: the wheel is whole, brings its configuration, and runs from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, pythonpath: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if pythonpath:
        environment["PYTHONPATH"] = str(pythonpath)
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPO, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def installed(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = distributions.glob("*.whl")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    done = run(sys.executable, *pip, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def tree(root: Path, pattern: str) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob(pattern))}


def test_the_wheel_holds_the_package_and_its_configuration_and_nothing_else(installed: Path) -> None:
    assert tree(installed / "latentkit" / "conf", "*.yaml") == tree(REPO / "conf", "*.yaml")
    assert tree(installed / "latentkit", "*.py") == tree(REPO / "latentkit", "*.py")
    tops = {path.name for path in installed.iterdir()}
    assert tops == {"latentkit", "bin", next(installed.glob("latentkit-*.dist-info")).name}


def test_the_distributions_hold_no_leftovers(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    (wheel,) = distributions.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    tops = {name.partition("/")[0] for name in names}
    assert {"conf", "latentkit", "tests", "pyproject.toml", "README.md", "LICENSE"} <= tops
    assert not tops & {".git", ".ci", ".venv", "dist", "build"}
    made = {name for name in names if re.match(r"(?:data|outputs)/.", name)}
    assert made <= {"data/README.md", "outputs/README.md"}
    with zipfile.ZipFile(wheel) as archive:
        names += archive.namelist()
        assert not [name for name in archive.namelist() if "test" in name]
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|_cache/|egg-info", name)]


@pytest.mark.parametrize("way", ["wheel", "checkout", "editable"])
def test_it_runs_from_any_folder(way: str, installed: Path, tmp_path: Path) -> None:
    """Each way with its own configuration: the wheel's is inside the package, else the checkout's."""
    path = {"wheel": installed, "checkout": REPO, "editable": None}[way]
    conf = installed / "latentkit" / "conf" if way == "wheel" else REPO / "conf"
    where = run(
        sys.executable,
        "-c",
        "import latentkit.jobs.config as config; print(config.conf_dir())",
        cwd=tmp_path,
        pythonpath=path,
    )
    if way == "editable" and (where.returncode != 0 or where.stdout.strip() != str(conf)):
        pytest.skip("latentkit is not installed as editable from this checkout")
    assert where.stdout.strip() == str(conf)

    module = [sys.executable, "-m", "latentkit.encode"]
    assert (
        "dataset: crawlr, demo, folder, imagenet"
        in run(*module, "--help", cwd=tmp_path, pythonpath=path).stdout
    )
    searched = run(*module, "--info", "searchpath", cwd=tmp_path, pythonpath=path).stdout
    assert f"file://{conf} " in searched
    assert run(*module, "--cfg", "job", cwd=tmp_path, pythonpath=path).stdout.startswith("dataset:")
    assert list(tmp_path.iterdir()) == []

    ended = run(*module, "encoder=t5", "limit=2", cwd=tmp_path, pythonpath=path)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "outputs" / "demo" / "t5").glob("*.npy"))) == 2


def test_the_console_script_is_the_same_command(installed: Path, tmp_path: Path) -> None:
    script = installed / "bin" / "latentkit-encode"
    ended = run(sys.executable, script, "--cfg", "job", "limit=3", cwd=tmp_path, pythonpath=installed)
    module = [sys.executable, "-m", "latentkit.encode", "--cfg", "job", "limit=3"]
    assert ended.returncode == 0, ended.stderr
    assert "limit: 3" in ended.stdout
    assert ended.stdout == run(*module, cwd=tmp_path, pythonpath=installed).stdout
    wrong = run(sys.executable, script, "limt=3", cwd=tmp_path, pythonpath=installed)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("latentkit: limt: no such key, did you mean limit?")


def test_the_installed_version_is_the_package_s(installed: Path, tmp_path: Path) -> None:
    code = "import importlib.metadata as m, latentkit; print(m.version('latentkit'), latentkit.__version__)"
    said = run(sys.executable, "-c", code, cwd=tmp_path, pythonpath=installed).stdout.split()
    assert len(said) == 2
    assert said[0] == said[1]


def test_no_tracked_file_names_a_place_of_one_machine() -> None:
    """Home folders, this checkout, and the environment that the tests run in."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    places = [r"/(?:root|home/\w+|Users/\w+)/", re.escape(str(REPO)) + r"\b"]
    if sys.prefix != sys.base_prefix and not Path(sys.prefix).is_relative_to(REPO):
        places.append(re.escape(sys.prefix) + r"\b")
    pattern = re.compile("|".join(places))
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        text = (REPO / name).read_bytes().decode("utf-8", "replace") if (REPO / name).is_file() else ""
        found += [f"{name}: {match.group()}" for match in pattern.finditer(text)]
    assert not found
