"""The guide's metric and feature network, from outside the package, do what the guide says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from encode_process import run_verb
from PIL import Image
from recipes import photo

REPO = Path(__file__).parents[2]
GUIDE = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- tested: (.+?) -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder as a user has it: the files, and two folders of pictures."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for side, count in (("left", 3), ("right", 4)):
        (tmp_path / side).mkdir()
        for number in range(count):
            Image.fromarray(photo(10 * count + number, 32, 40)).save(tmp_path / side / f"{number}.png")
    return tmp_path


def means(folder: Path) -> np.ndarray:
    """Of all pictures' red, green and blue."""
    return np.mean([np.asarray(Image.open(path)).mean((0, 1)) for path in folder.iterdir()], axis=0)


def test_a_metric_and_an_extractor_from_outside_the_package(place: Path) -> None:
    arguments = ["--config-dir", "conf", "workers=0", "generated=left", "reference=right", "metric=shift"]
    arguments += ["extractor=colours", "metrics.shift.scale=100"]
    ended = run_verb("evaluate", *arguments, cwd=place)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((place / "outputs/evaluations/left@right/report.json").read_text())
    expected = np.linalg.norm(means(place / "left") - means(place / "right")) / 100
    assert report["results"] == {"colour_shift": pytest.approx(expected, rel=1e-5)}
    assert report["metrics"] == {"shift": {"_target_": "shift.ColourShift", "scale": 100}}
    assert report["unpublished"] == {"shift": "no published numbers are known"}
    colours = report["extractors"]["colours"]
    assert (colours["network"], colours["model"], colours["stored"]) == ("colours", "shift.Colours", "means")
