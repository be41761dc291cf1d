"""Several evaluations side by side: a table as CSV, Markdown and on the terminal, and a plot."""

import csv
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from rich.console import Console

from latentkit.report.evaluation import describe_value, label
from latentkit.runtime.terminal import print_table

_DEVIATION = "_std"
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_COMPARABLE = {True: "yes", False: "no", None: ""}
_PANELS = 3
_LABEL = 36


class SweepTable:
    """Runs side by side.

    Args:
        runs: of each its ``overrides`` and its ``report``, empty where it failed.

    Attributes:
        swept: the keys whose values differ between runs.
        values: the names of what was measured, in the order of the first report that has them.
        remark: that runs are not comparable with published numbers, for the reasons that all of these have.
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        overrides = [dict(_split(word) for word in run["overrides"]) for run in runs]
        keys = list(dict.fromkeys(key for given in overrides for key in given))
        self.swept = [key for key in keys if len({given.get(key) for given in overrides}) > 1] or keys
        self._names = [[given.get(key, "") for key in self.swept] for given in overrides]
        reports = [run["report"] for run in runs]
        self._results: list[dict[str, float]] = [report.get("results", {}) for report in reports]
        self._comparable: list[bool | None] = [report.get("comparable") for report in reports]
        self.values = list(dict.fromkeys(name for results in self._results for name in results))
        self._shown = [
            name
            for name in self.values
            if not name.endswith(_DEVIATION) or name.removesuffix(_DEVIATION) not in self.values
        ]
        self.remark = _remark(reports)

    def as_csv(self) -> str:
        """Every value in full; ``comparable`` is empty for a run that failed."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*self.swept, *self.values, "comparable"])
        for names, results, comparable in zip(self._names, self._results, self._comparable, strict=True):
            writer.writerow([*names, *(results.get(name) for name in self.values), comparable])
        return file.getvalue()

    def as_markdown(self) -> str:
        """Rounded as papers print them, a standard deviation behind its value."""
        heads, *rows = self._cells()
        rule = ["---"] * len(self.swept) + ["---:"] * (len(heads) - len(self.swept))
        lines = [" | ".join(cell.replace("|", r"\|") for cell in line) for line in (heads, rule, *rows)]
        text = "".join(f"| {line} |\n" for line in lines)
        return f"{text}\n{self.remark}\n" if self.remark else text

    def print(self, console: Console) -> None:
        """The same as a table on the terminal."""
        heads, *rows = self._cells()
        print_table(console, "sweep", heads, rows, left=self.swept)
        if self.remark:
            console.print(self.remark, soft_wrap=True)

    def plot(self) -> bytes:
        """A PNG file: a panel a value; over the swept number where it is one, else a bar a run."""
        from matplotlib.figure import Figure

        axis = swept_numbers([names[0] for names in self._names]) if len(self.swept) == 1 else None
        labels = [textwrap.fill(", ".join(names), _LABEL) for names in self._names]
        columns = min(_PANELS, len(self._shown))
        rows = math.ceil(len(self._shown) / columns)
        lines = sum(text.count("\n") + 1 for text in labels)
        height = 2.6 if axis else 1.0 + 0.24 * max(lines, len(labels) + 1)
        figure = Figure(figsize=(3.6 * columns + 2.4, height * rows), layout="constrained")
        for place, name in enumerate(self._shown):
            panel = figure.add_subplot(rows, columns, place + 1)
            heights = [results.get(name, math.nan) for results in self._results]
            panel.set_title(label(name))
            if axis is None:
                _bars(panel, labels if place % columns == 0 else [""] * len(labels), name, heights)
            else:
                around, numbers = axis
                _line(panel, name, numbers, heights)
                panel.set_xlabel(f"{self.swept[0]}={around}" if around else self.swept[0])
        if self.remark:
            figure.supxlabel(textwrap.fill(self.remark, 45 * columns), fontsize="small", color="dimgrey")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120)
        return file.getvalue()

    def _cells(self) -> list[list[str]]:
        """A table for people, its heads first; a standard deviation stands in its value's column."""
        differ = len({*self._comparable} - {None}) > 1
        lines = [[*self.swept, *map(label, self._shown), *["comparable"] * differ]]
        for names, results, comparable in zip(self._names, self._results, self._comparable, strict=True):
            cells = [
                " ± ".join(describe_value(k, results[k]) for k in (name, name + _DEVIATION) if k in results)
                for name in self._shown
            ]
            lines.append([*names, *cells, *[_COMPARABLE[comparable]] * differ])
        return lines


def swept_numbers(texts: Sequence[str]) -> tuple[str, list[float]] | None:
    """The number in which the texts differ alone, and the text around it; None when they differ otherwise.

    ``0.5`` and ``1e-3`` are numbers; ``step100.npz`` and ``step200.npz`` have one, of ``step*.npz``. ``run1``
    to ``run3`` only count: that is no axis.
    """
    with suppress(ValueError):
        return "", [float(text) for text in texts]
    parts = [_NUMBER.split(text) for text in texts]
    differing = [place for place, values in enumerate(zip(*parts, strict=False)) if len({*values}) > 1]
    if len({len(words) for words in parts}) > 1 or len(differing) != 1 or differing[0] % 2 == 0:
        return None
    (place,) = differing
    numbers = [float(words[place]) for words in parts]
    if {second - first for first, second in pairwise(sorted(numbers))} == {1.0}:
        return None
    return "".join([*parts[0][:place], "*", *parts[0][place + 1 :]]), numbers


def _remark(reports: Sequence[Mapping[str, Any]]) -> str:
    reasons = []
    for report in reports:
        if report.get("comparable") is False:
            excepted = [f"{metric} ({why})" for metric, why in report.get("unpublished", {}).items()]
            reasons.append([*report.get("reasons", ()), *excepted])
    if not reasons:
        return ""
    some = any(report.get("comparable") for report in reports)
    those = "Some of these are not" if some else "None of these is"
    shared = [reason for reason in reasons[0] if all(reason in others for others in reasons)]
    return f"{those} comparable with published numbers: {'; '.join(shared) or 'see the reports'}."


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


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value
