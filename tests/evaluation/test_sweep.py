"""Tables and plots of several runs, without any network."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from latentkit.jobs.sweep import SweepReport
from latentkit.report.sweep import SweepTable, swept_numbers
from latentkit.runtime.exit_status import DONE, FAILED, Outcome

RESULTS = {"fid": 3.943, "kid": 0.00123, "kid_std": 0.0001, "my|own": 1.0}


def run(*overrides: str, comparable: bool = True, **results: float) -> dict[str, Any]:
    report = {"results": results, "comparable": comparable} if results else {}
    return {"overrides": list(overrides), "report": report}


def test_values_in_full_and_as_papers_print_them() -> None:
    table = SweepTable(
        [
            run("generated=a[1]|b", "reference=val", **RESULTS),
            run("generated=c", "reference=val"),
            run("generated=d", "reference=val", comparable=False, fid=12.0, psnr=24.5),
        ]
    )
    rows = list(csv.DictReader(io.StringIO(table.as_csv())))
    assert [row["generated"] for row in rows] == ["a[1]|b", "c", "d"]
    assert [row["fid"] for row in rows] == ["3.943", "", "12.0"]
    assert [row["comparable"] for row in rows] == ["True", "", "False"]
    assert "reference" not in rows[0]
    assert table.as_markdown().splitlines() == [
        r"| generated | FID | KID | my\|own | PSNR, dB | comparable |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        r"| a[1]\|b | 3.94 | 0.00123 ± 0.00010 | 1.0000 |  | yes |",
        "| c |  |  |  |  |  |",
        "| d | 12.00 |  |  | 24.50 | no |",
        "",
        "Some of these are not comparable with published numbers: see the reports.",
    ]
    console = Console(file=io.StringIO(), width=100)
    table.print(console)
    assert "a[1]|b" in console.file.getvalue()  # type: ignore[attr-defined]


def test_runs_alike_in_what_they_are_comparable_with_need_no_column() -> None:
    table = SweepTable([run("seed=1", fid=3.0), run("seed=2", fid=4.0), run("seed=3")])
    assert table.as_markdown().splitlines()[0] == "| seed | FID |"


def test_reasons_that_all_runs_share_stand_under_the_table_and_the_plot() -> None:
    runs = [run(f"seed={seed}", comparable=False, fid=3.0 + seed) for seed in range(2)]
    before = SweepTable(runs).plot()
    for number, (one, more) in enumerate(zip(runs, (["9 pictures"], []), strict=True)):
        one["report"] |= {
            "reasons": ["random weights (inception)", *more],
            "unpublished": {"kid": f"n={number}"},
        }
    table = SweepTable(runs)
    assert table.remark == "None of these is comparable with published numbers: random weights (inception)."
    assert table.as_markdown().endswith(f"\n\n{table.remark}\n")
    assert table.plot() != before
    console = Console(file=io.StringIO(), width=40)
    table.print(console)
    assert table.remark in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("values", [["1", "20", "3"], ["a name that is rather long " * 4, "b", "c"]])
@pytest.mark.parametrize("count", [1, 5])
def test_a_plot_has_room_for_every_value(values: list[str], count: int) -> None:
    names = ["fid", "precision", "recall", "sfid", "own"][:count]
    runs = [run(f"key={value}", **dict.fromkeys(names, 2.0)) for value in values]
    drawn = [
        Image.open(io.BytesIO(SweepTable(some).plot()))
        for some in (runs, [*runs[:2], run(f"key={values[2]}")])
    ]
    assert drawn[0].size == drawn[1].size
    assert drawn[0].tobytes() != drawn[1].tobytes()
    assert (drawn[0].height > 400) == (count == 5)


@pytest.mark.parametrize(
    ("names", "axis"),
    [
        (["1", "1e-3", "-2"], ("", [1, 0.001, -2])),
        (["out/step100.npz", "out/step2000.npz"], ("out/step*.npz", [100, 2000])),
        (["cfg1.5", "cfg1.75", "cfg2"], ("cfg*", [1.5, 1.75, 2])),
        (["v2/step10", "v2/step20"], ("v2/step*", [10, 20])),
        (["run1", "run2", "run3"], None),
        (["v1/step10", "v2/step20"], None),
        (["a", "b"], None),
        (["step10"], None),
        (["step10", "step20a"], None),
        (["step10", "best"], None),
    ],
)
def test_what_a_sweep_is_drawn_over(names: list[str], axis: tuple[str, list[float]] | None) -> None:
    assert swept_numbers(names) == axis


@pytest.mark.parametrize("again", [True, False], ids=["it reported", "it failed"])
def test_a_report_that_lay_there_before_is_not_the_runs(tmp_path: Path, again: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    older = folder / "report.json"
    older.write_text(json.dumps({"results": {"fid": 1.0}}))
    config = OmegaConf.create({"report_dir": str(folder), "sweep_dir": str(tmp_path / "sweep")})
    hydra = OmegaConf.create({"hydra": {"mode": RunMode.MULTIRUN, "job": {"num": 0}}})
    outcome = Outcome(DONE, {"results": {"fid": 2.0}}) if again else Outcome(FAILED, {})
    ended = JobReturn(["seed=1"], hydra_cfg=hydra, status=JobStatus.COMPLETED, _return_value=outcome)
    SweepReport().on_job_end(config, ended)
    kept = json.loads((tmp_path / "sweep" / "0.json").read_text())
    assert kept == {"overrides": ["seed=1"], "report": {"results": {"fid": 2.0}} if again else {}}


def test_of_the_processes_that_torchrun_starts_the_first_alone_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OmegaConf.create({"report_dir": str(tmp_path / "run"), "sweep_dir": str(tmp_path)})
    hydra = OmegaConf.create({"hydra": {"mode": RunMode.MULTIRUN, "job": {"num": 1}}})
    outcome = Outcome(FAILED, {})
    ended = JobReturn(["seed=1"], hydra_cfg=hydra, status=JobStatus.COMPLETED, _return_value=outcome)
    first = tmp_path / "0.json"
    first.write_text(json.dumps(run("seed=0", fid=1.0)))
    found = {}
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        callback = SweepReport()
        callback.on_job_end(config, ended)
        callback.on_multirun_end(config)
        found[rank] = {path.name for path in tmp_path.iterdir()}
        if rank == "1":
            callback.on_multirun_start(config)
            assert first.exists()
    assert found == {"1": {"0.json"}, "0": {"0.json", "1.json", "sweep.csv", "sweep.md", "sweep.png"}}
