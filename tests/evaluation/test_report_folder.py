"""A folder of results holds one run's: the last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentkit.errors import UsageError
from latentkit.evaluation.report_folder import ReportFolder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def save(folder: ReportFolder, *keys: str) -> None:
    for key in keys:
        path = folder.images / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def test_pictures_of_a_larger_run_before_go(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path / "results")
    folder.check(save_images=True)
    folder.begin("a: 1\n", ["x/1", "x/2", "3"])
    save(folder, "x/1", "x/2", "3")
    said = folder.publish({"n": 3}, b"sheet", save_images=True)
    assert said.endswith("results: report.json, reconstructions.png, images/")
    (folder.images / "notes.txt").write_text("mine")
    for place in (folder.path, folder.images / "x"):
        (place / ".latentkit-1-1.tmp").write_bytes(b"left by a killed process")

    folder.check(save_images=True)
    folder.begin("a: 2\n", ["x/1"])
    save(folder, "x/1")
    said = folder.publish({"n": 1}, None, save_images=True)
    assert said.endswith("results: report.json, images/")
    assert files(folder.path) == {
        *("report.json", "images/x/1.png", "images/notes.txt"),
        *(".latentkit/config.yaml", ".latentkit/images"),
    }
    assert json.loads((folder.path / "report.json").read_text()) == {"n": 1}
    assert (folder.path / ".latentkit/config.yaml").read_text() == "a: 2\n"


def test_a_run_that_saves_no_pictures_leaves_those_there_and_says_so(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path)
    folder.begin("", ["1"])
    save(folder, "1")
    folder.publish({}, None, save_images=True)
    folder.begin("", None)
    assert folder.publish({}, None, save_images=False).endswith("images/ there is of an earlier run")
    assert (folder.images / "1.png").exists()


def test_nobody_elses_pictures_are_mixed_with_or_removed(tmp_path: Path) -> None:
    folder = ReportFolder(tmp_path)
    save(folder, "holiday")
    with pytest.raises(UsageError, match="no evaluation wrote it: give another report_dir"):
        folder.check(save_images=True)
    folder.check(save_images=False)
    folder.begin("", None)
    folder.publish({}, None, save_images=False)
    with pytest.raises(UsageError, match="no evaluation wrote it"):
        folder.check(save_images=True)
    assert (folder.images / "holiday.png").exists()
