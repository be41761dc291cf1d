"""The trial metric is the first term of FID, whose second vanishes for sides of one and the same picture."""

import json
from pathlib import Path

import pytest
from encode_process import run_here
from PIL import Image
from recipes import photo


def test_its_square_is_fid_where_neither_side_varies(tmp_path: Path) -> None:
    for side, seed in (("left", 1), ("right", 2)):
        (tmp_path / side).mkdir()
        for number in range(3):
            Image.fromarray(photo(seed, 32, 32)).save(tmp_path / side / f"{number}.png")
    words = ("generated=left", "reference=right", "metric=[mean_shift,fid]", "weights=random", "workers=0")
    ended = run_here("evaluate", *words, "report_dir=out", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "out/report.json").read_text())["results"]
    assert results["mean_shift"] > 0
    assert results["fid"] == pytest.approx(results["mean_shift"] ** 2, rel=1e-4)
