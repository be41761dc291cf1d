"""`latentkit.evaluate` of folders of a few small pictures: what is said of a reference, and kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encode_process import run_with_small_files
from PIL import Image
from recipes import photo

from latentkit.jobs.command import as_overrides, run

OPTIONS: dict[str, Any] = {"weights": "random", "workers": 0, "generated": "few", "report_dir": "out"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's folder with few/, four pictures, and six/, six others."""
    monkeypatch.chdir(tmp_path)
    for name, count, first in (("few", 4, 0), ("six", 6, 10)):
        Path(name).mkdir()
        for number in range(count):
            Image.fromarray(photo(first + number, 32, 32)).save(f"{name}/{number}.png")


def evaluate(status: int = 0, **values: Any) -> dict[str, Any]:
    """The report."""
    assert run("evaluate", as_overrides(OPTIONS | values)) == status
    return json.loads(Path("out/report.json").read_text()) if status == 0 else {}


@pytest.mark.slow
def test_a_limit_is_of_both_sides_and_no_reason_where_it_cuts_nothing() -> None:
    found = evaluate(reference="six", metric="fid", limit=3)
    assert found["generated"]["pictures"] == found["reference"]["pictures"] == 3
    assert "limit: only the first pictures were taken" in found["reasons"]
    found = evaluate(reference="six", metric="fid", limit=4)
    assert (found["generated"]["pictures"], found["reference"]["pictures"]) == (4, 4)
    assert "limit: only the first pictures were taken" in found["reasons"]  # of the reference
    found = evaluate(reference="six", metric="fid", limit=6)
    assert (found["generated"]["pictures"], found["reference"]["pictures"]) == (4, 6)
    assert not any("limit" in reason for reason in found["reasons"])


@pytest.mark.slow
def test_a_kept_reference_of_several_sizes_is_so_again() -> None:
    Image.fromarray(photo(3, 48, 32)).save("six/5.png")
    first, again = (evaluate(reference="six", metric="fid") for _ in range(2))
    assert "the reference pictures are of several sizes" in first["reasons"]
    assert again["reasons"] == first["reasons"]
    assert again["reference"]["size"] is None


@pytest.mark.slow
def test_a_full_disk_for_what_is_kept_costs_no_result() -> None:
    """Statistics of 32 MiB do not fit under the limit, the report does."""
    words = ("generated=few", "reference=few", "metric=fid", "weights=random", "workers=0", "report_dir=out")
    ended = run_with_small_files(2000, "evaluate", *words, cwd=Path.cwd())
    assert ended.returncode == 0, ended.stderr
    found = json.loads(Path("out/report.json").read_text())
    assert found["results"]["fid"] == pytest.approx(0, abs=1e-4)
    (warning,) = found["warnings"]
    assert "is not kept: " in warning
    assert "ulimit -f" in warning
    assert not list(Path("outputs/references").glob("*.npz"))


@pytest.mark.slow
def test_a_kept_reference_is_as_short_as_it_was() -> None:
    """What KID keeps of six pictures says that they are six, and is refused where more are needed."""
    options: dict[str, Any] = {"reference": "six", "metric": "kid", "metrics.kid.subset_size": 4}
    first = evaluate(**options, save_reference="new/six.npz")
    again = evaluate(**options)
    assert again["results"] == first["results"]
    assert again["reference"]["pictures"] == 6
    assert again["reference"]["size"] == [32, 32]
    assert "the reference is of 6 pictures, 50,000 are usual" in first["reasons"]
    assert again["reasons"] == first["reasons"]
    evaluate(2, **options | {"generated": "six", "reference": "few", "metrics.kid.subset_size": 5})
    assert evaluate(**options | {"reference": "new/six.npz"})["reasons"] == first["reasons"]


@pytest.mark.slow
def test_what_a_reference_does_not_serve_of_a_protocols_set_is_left_out() -> None:
    """pytorch-fid's files have mu and sigma alone."""
    whole = evaluate(reference="six", metric="fid", save_reference="six.npz")
    with np.load("six.npz") as file:
        np.savez("bare.npz", mu=file["mu"], sigma=file["sigma"])
    found = evaluate(reference="bare.npz", protocol="adm")
    assert found["results"]["fid"] == pytest.approx(whole["results"]["fid"], rel=1e-6)
    assert found["left_out"].keys() == {"sfid", "precision_recall"}
    assert "bare.npz has no mu_s, sigma_s" in found["left_out"]["sfid"]
    assert "does not record" in found["warnings"][0]
    assert found["reference"]["pictures"] is None
