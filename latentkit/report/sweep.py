"""The end of a sweep of evaluations: one table and one plot over all of its runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from latentkit.report.evaluation import REPORT, describe_value
from latentkit.stores.publish import publish, publish_json, remove_many

MISSING = ""
"""Stands in the table where a run has no such value."""


class SweepReport(Callback):
    """Keeps each run's report in ``sweep_dir``, and lays them side by side when the last has ended.

    Writes ``sweep.csv``, ``sweep.md``, ``sweep.png`` and the runs' reports as ``<number>.json``. A run that
    failed has a row without values.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the sweep before; ``sweep_dir`` holds one."""
        folder = Path(config.sweep_dir)
        remove_many([*folder.glob("[0-9]*.json"), *folder.glob("sweep.*")])

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the report before another run of the sweep takes its place."""
        if job_return.hydra_cfg is None or job_return.hydra_cfg.hydra.mode.name != "MULTIRUN":
            return
        path = Path(config.report_dir, REPORT)
        done = job_return.status is JobStatus.COMPLETED and path.exists()
        report = json.loads(path.read_bytes()) if done else {}
        if report.get("job") != OmegaConf.to_container(job_return.hydra_cfg.hydra.overrides.task):
            report = {}  # an older one: this run has left none
        number = job_return.hydra_cfg.hydra.job.num
        kept = {"overrides": list(job_return.overrides or ()), "report": report}
        publish_json(Path(config.sweep_dir, f"{number}.json"), kept)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and publish the table and the plot."""
        folder = Path(config.sweep_dir)
        kept = sorted(folder.glob("[0-9]*.json"), key=lambda path: int(path.stem))
        runs = [json.loads(path.read_bytes()) for path in kept]
        if not any(run["report"] for run in runs):
            return
        table = SweepTable(runs)
        publish(folder / "sweep.csv", lambda file: file.write(table.as_csv().encode()))
        publish(folder / "sweep.md", lambda file: file.write(table.as_markdown().encode()))
        publish(folder / "sweep.png", lambda file: file.write(table.plot()))
        console = Console(stderr=True)
        table.print(console)
        console.print(f"{folder}/sweep.csv, .md and .png", highlight=False, markup=False, soft_wrap=True)


class SweepTable:
    """Runs side by side.

    Args:
        runs: of each its ``overrides`` and its ``report``, empty where it failed.

    Attributes:
        swept: the keys whose values differ between runs.
        values: the names of what was measured, in the order of the first report that has them.
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        overrides = [dict(_split(word) for word in run["overrides"]) for run in runs]
        keys = list(dict.fromkeys(key for of_run in overrides for key in of_run))
        differing = [key for key in keys if len({of_run.get(key) for of_run in overrides}) > 1]
        self.swept = differing or keys
        self._names = [[of_run.get(key, MISSING) for key in self.swept] for of_run in overrides]
        self._results: list[dict[str, float]] = [run["report"].get("results", {}) for run in runs]
        self._comparable = [run["report"].get("comparable") for run in runs]
        self.values = list(dict.fromkeys(name for results in self._results for name in results))

    def as_csv(self) -> str:
        """Every value in full."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*self.swept, *self.values, "comparable"])
        for names, results, comparable in zip(self._names, self._results, self._comparable, strict=True):
            writer.writerow([*names, *(results.get(name, MISSING) for name in self.values), comparable])
        return file.getvalue()

    def as_markdown(self) -> str:
        """Rounded as papers print them."""
        heads = [*self.swept, *self.values]
        lines = [heads, ["---"] * len(self.swept) + ["---:"] * len(self.values), *self._rows()]
        return "".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
        )

    def print(self, console: Console) -> None:
        """The same as a table on the terminal."""
        table = Table(title="sweep", title_justify="left", title_style="bold")
        for key in self.swept:
            table.add_column(key, overflow="fold")
        for name in self.values:
            table.add_column(name, justify="right", no_wrap=True)
        for row in self._rows():
            table.add_row(*map(_unmarked, row))
        console.print(table)
        if not all(self._comparable):
            console.print("not all of these are comparable with published numbers: see the reports")

    def plot(self) -> bytes:
        """A PNG file: a panel a value; over the swept number where it is one, else a bar a run."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.2 * len(self.values), 0.4 * len(self._names) + 2.2), layout="constrained")
        numbers = _numbers([names[0] for names in self._names]) if len(self.swept) == 1 else None
        labels = [", ".join(names) for names in self._names]
        for panel, name in zip(
            figure.subplots(1, len(self.values), squeeze=False)[0], self.values, strict=True
        ):
            heights = [results.get(name, float("nan")) for results in self._results]
            panel.set_title(name)
            if numbers is not None:
                points = sorted(zip(numbers, heights, strict=True))
                panel.plot(*zip(*points, strict=True), marker="o")
                panel.set_xlabel(self.swept[0])
                continue
            panel.barh(range(len(labels)), heights)
            panel.set_yticks(range(len(labels)), labels if panel.get_subplotspec().is_first_col() else [])
            panel.invert_yaxis()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120)
        return file.getvalue()

    def _rows(self) -> list[list[str]]:
        return [
            [
                *names,
                *(
                    describe_value(name, results[name]) if name in results else MISSING
                    for name in self.values
                ),
            ]
            for names, results in zip(self._names, self._results, strict=True)
        ]


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """All as numbers; None when one is none."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _in_a_cell(text: str) -> str:
    """Of a Markdown table."""
    return text.replace("|", r"\|")


def _unmarked(text: str) -> str:
    return text.replace("[", r"\[")
