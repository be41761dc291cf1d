"""The end of a sweep of evaluations: one table and one plot over all of its runs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentkit.report.evaluation import LABELS, REPORT, describe_value
from latentkit.runtime.device import process_rank
from latentkit.stores.storage import publish, publish_json, remove_many

MISSING = ""
"""Stands in the table where a run has no such value."""

_DEVIATION = "_std"
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_PANELS = 3
_LABEL = 36


class SweepReport(Callback):
    """Keeps each run's report in ``sweep_dir``, and lays them side by side when the last has ended.

    Writes ``sweep.csv``, ``sweep.md``, ``sweep.png`` and the runs' reports as ``<number>.json``. A run that
    failed has a row without values. Of a run's processes the first alone writes.
    """

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the sweep before; ``sweep_dir`` holds one. What others put there stays."""
        if process_rank():
            return
        folder = Path(config.sweep_dir)
        remove_many([*_kept(folder), *(folder / f"sweep.{suffix}" for suffix in ("csv", "md", "png"))])

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the report that lies there already: it is not this run's."""
        self._before = _version(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the report before another run of the sweep takes its place."""
        how = job_return.hydra_cfg
        if how is None or how.hydra.mode.name != "MULTIRUN" or process_rank():
            return
        changed = _version(config) != self._before
        report = json.loads(Path(config.report_dir, REPORT).read_bytes()) if changed else {}
        number = how.hydra.job.num
        kept = {"overrides": list(job_return.overrides or ()), "report": report}
        publish_json(Path(config.sweep_dir, f"{number}.json"), kept)
        _publish_table(Path(config.sweep_dir))  # there also when the sweep is stopped before its end

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and publish the plot."""
        if process_rank():
            return
        folder = Path(config.sweep_dir)
        table = _publish_table(folder)
        if not table.values:
            return
        publish(folder / "sweep.png", lambda file: file.write(table.plot()))
        console = Console(stderr=True)
        table.print(console)
        console.print(
            f"in {folder}: sweep.csv, sweep.md, sweep.png", highlight=False, markup=False, soft_wrap=True
        )


def _kept(folder: Path) -> dict[Path, dict[str, Any]]:
    """Path -> content of the runs that have ended, by number."""
    found = {}
    for path in folder.glob("*.json"):
        if path.stem.isdecimal():
            with contextlib.suppress(ValueError):
                content = json.loads(path.read_bytes())
                if isinstance(content, dict) and content.keys() == {"overrides", "report"}:
                    found[path] = content
    return {path: found[path] for path in sorted(found, key=lambda path: int(path.stem))}


def _publish_table(folder: Path) -> SweepTable:
    """The table of the runs that have ended so far, as CSV and Markdown."""
    table = SweepTable([*_kept(folder).values()])
    publish(folder / "sweep.csv", lambda file: file.write(table.as_csv().encode()))
    publish(folder / "sweep.md", lambda file: file.write(table.as_markdown().encode()))
    return table


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
        self.values: list[str] = list(
            dict.fromkeys(name for run in runs for name in run["report"].get("results", {}))
        )
        self._names = [[of_run.get(key, MISSING) for key in self.swept] for of_run in overrides]
        self._results: list[dict[str, float]] = [run["report"].get("results", {}) for run in runs]
        self._comparable: list[bool | None] = [run["report"].get("comparable") for run in runs]
        self._reasons = [_reasons(run["report"]) for run in runs if run["report"].get("comparable") is False]

    def as_csv(self) -> str:
        """Every value in full; ``comparable`` is empty for a run that failed."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*self.swept, *self.values, "comparable"])
        for names, results, comparable in zip(self._names, self._results, self._comparable, strict=True):
            writer.writerow([*names, *(results.get(name, MISSING) for name in self.values), comparable])
        return file.getvalue()

    def as_markdown(self) -> str:
        """Rounded as papers print them, a standard deviation behind its value."""
        heads, rows = self._cells()
        rule = ["---"] * len(self.swept) + ["---:"] * (len(heads) - len(self.swept))
        lines = "".join(f"| {' | '.join(map(_in_a_cell, line))} |\n" for line in (heads, rule, *rows))
        return f"{lines}\n{self.remark}\n" if self.remark else lines

    def print(self, console: Console) -> None:
        """The same as a table on the terminal."""
        heads, rows = self._cells()
        table = Table(title="sweep", title_justify="left", title_style="bold")
        for place, head in enumerate(heads):
            swept = place < len(self.swept)
            table.add_column(escape(head), justify="left" if swept else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        if self.remark:
            console.print(self.remark, highlight=False, markup=False, soft_wrap=True)

    def plot(self) -> bytes:
        """A PNG file: a panel a value; over the swept number where it is one, else a bar a run."""
        from matplotlib.figure import Figure

        axis = _numbers([names[0] for names in self._names]) if len(self.swept) == 1 else None
        labels = [textwrap.fill(", ".join(names), _LABEL) for names in self._names]
        columns = min(_PANELS, len(self._shown))
        rows = math.ceil(len(self._shown) / columns)
        lines = sum(label.count("\n") + 1 for label in labels)
        height = 2.6 if axis else 1.0 + 0.24 * max(lines, len(labels) + 1)
        figure = Figure(figsize=(3.6 * columns + 2.4, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat[len(self._shown) :]:
            panel.remove()
        for panel, name in zip(panels.flat, self._shown, strict=False):
            heights = [results.get(name, math.nan) for results in self._results]
            panel.set_title(LABELS.get(name, (name, ""))[0])
            if axis is None:
                first = panel.get_subplotspec().is_first_col()
                _bars(panel, labels if first else [""] * len(labels), name, heights)
            else:
                around, numbers = axis
                _line(panel, name, numbers, heights)
                panel.set_xlabel(f"{self.swept[0]}={around}" if around else self.swept[0])
        if self.remark:
            figure.supxlabel(textwrap.fill(self.remark, 45 * columns), fontsize="small", color="dimgrey")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120)
        return file.getvalue()

    @property
    def remark(self) -> str:
        """That runs are not comparable with published numbers, for the reasons that all of these have."""
        if not self._reasons:
            return ""
        those = "Some of these are not" if any(self._comparable) else "None of these is"
        shared = [reason for reason in self._reasons[0] if all(reason in other for other in self._reasons)]
        why = "; ".join(shared) or "see the reports"
        return f"{those} comparable with published numbers: {why}."

    @property
    def _shown(self) -> list[str]:
        """The values that have a column; a standard deviation stands in its value's."""
        return [
            name
            for name in self.values
            if not name.endswith(_DEVIATION) or name.removesuffix(_DEVIATION) not in self.values
        ]

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of a table for people."""
        differ = len(set(self._comparable) - {None}) > 1
        heads = [LABELS.get(name, (name, ""))[0] for name in self._shown]
        rows = [
            [*names, *(_cell(results, name) for name in self._shown)]
            + [{True: "yes", False: "no", None: MISSING}[comparable]] * differ
            for names, results, comparable in zip(self._names, self._results, self._comparable, strict=True)
        ]
        return [*self.swept, *heads, *["comparable"] * differ], rows


def _version(config: DictConfig) -> tuple[int, int] | None:
    """What tells a run's report from the one before it; None: there is none, or no place for one."""
    try:
        now = Path(config.report_dir, REPORT).stat()
    except (OSError, OmegaConfBaseException):
        return None
    return now.st_ino, now.st_mtime_ns


def _line(panel: Any, name: str, numbers: Sequence[float], values: Sequence[float]) -> None:
    """A point a run with its value above it; none for a run that failed."""
    points = sorted(zip(numbers, values, strict=True))
    panel.plot(*zip(*points, strict=True), marker="o")
    for number, value in points:
        if not math.isnan(value):
            text, place = describe_value(name, value), (number, value)
            panel.annotate(text, place, (0, 5), textcoords="offset points", ha="center", fontsize="small")
    panel.margins(0.12, 0.2)
    panel.ticklabel_format(useOffset=False)


def _bars(panel: Any, labels: Sequence[str], name: str, values: Sequence[float]) -> None:
    """A bar a run with its value beside it, the first run on top."""
    bars = panel.barh(range(len(labels)), [0 if math.isnan(value) else value for value in values], 0.7)
    texts = ["no value" if math.isnan(value) else describe_value(name, value) for value in values]
    panel.bar_label(bars, texts, padding=3, fontsize="small")
    panel.set_yticks(range(len(labels)), labels, fontsize="small")
    panel.margins(x=0.2)
    panel.locator_params(axis="x", nbins=5)
    panel.invert_yaxis()


def _cell(results: Mapping[str, float], name: str) -> str:
    words = [describe_value(key, results[key]) for key in (name, name + _DEVIATION) if key in results]
    return " ± ".join(words) if words else MISSING


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _numbers(texts: Sequence[str]) -> tuple[str, list[float]] | None:
    """The number in which the texts differ alone, and the text around it; None when they differ otherwise.

    ``0.5`` and ``1e-3`` are numbers; ``step100.npz`` and ``step200.npz`` have one, of ``step*.npz``. ``run1``
    to ``run3`` only count: that is no axis.
    """
    with contextlib.suppress(ValueError):
        return "", [float(text) for text in texts]
    parts = [_NUMBER.split(text) for text in texts]
    differing = [place for place, values in enumerate(zip(*parts, strict=False)) if len(set(values)) > 1]
    if len({len(words) for words in parts}) > 1 or len(differing) != 1 or differing[0] % 2 == 0:
        return None
    (place,) = differing
    numbers = [float(words[place]) for words in parts]
    if {second - first for first, second in pairwise(sorted(numbers))} == {1.0}:
        return None
    return "".join([*parts[0][:place], "*", *parts[0][place + 1 :]]), numbers


def _reasons(report: Mapping[str, Any]) -> list[str]:
    """Why a run is not comparable, of each metric too."""
    return [
        *report.get("reasons", ()),
        *(f"{metric} ({why})" for metric, why in report.get("unpublished", {}).items()),
    ]


def _in_a_cell(text: str) -> str:
    """Of a Markdown table."""
    return text.replace("|", r"\|")
