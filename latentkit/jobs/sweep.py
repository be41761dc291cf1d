"""The end of a sweep of evaluations: one table and one plot over all of its runs."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from latentkit.report.evaluation import REPORT
from latentkit.report.sweep import SweepTable
from latentkit.runtime.device import process_rank
from latentkit.runtime.terminal import open_console
from latentkit.stores.storage import publish, publish_json, remove_many


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
        kept = {"overrides": list(job_return.overrides or ()), "report": report}
        publish_json(Path(config.sweep_dir, f"{how.hydra.job.num}.json"), kept)
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
        console = open_console()
        table.print(console)
        console.print(f"in {folder}: sweep.csv, sweep.md, sweep.png")


def _kept(folder: Path) -> dict[Path, dict[str, Any]]:
    """Path -> content of the runs that have ended, by number."""
    found = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        if path.stem.isdecimal():
            with suppress(ValueError):
                content = json.loads(path.read_bytes())
                if isinstance(content, dict) and content.keys() == {"overrides", "report"}:
                    found[path] = content
    return found


def _publish_table(folder: Path) -> SweepTable:
    """The table of the runs that have ended so far, as CSV and Markdown."""
    table = SweepTable([*_kept(folder).values()])
    publish(folder / "sweep.csv", lambda file: file.write(table.as_csv().encode()))
    publish(folder / "sweep.md", lambda file: file.write(table.as_markdown().encode()))
    return table


def _version(config: DictConfig) -> tuple[int, int] | None:
    """What tells a run's report from the one before it; None: there is none, or no place for one."""
    try:
        now = Path(config.report_dir, REPORT).stat()
    except (OSError, OmegaConfBaseException):
        return None
    return now.st_ino, now.st_mtime_ns
