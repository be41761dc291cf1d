"""The end of a sweep of evaluations: one table and one plot over all of its runs."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from latentkit.report.sweep import SweepTable
from latentkit.runtime.device import process_rank
from latentkit.runtime.terminal import open_console
from latentkit.stores.storage import publish_bytes, publish_json, remove_many


class SweepReport(Callback):
    """Keeps each run's report in ``sweep_dir``, and lays them side by side when the last has ended.

    Writes ``sweep.csv``, ``sweep.md``, ``sweep.png`` and the runs' reports as ``<number>.json``. A run that
    failed has a row without values. Of a run's processes the first alone writes.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the sweep before; ``sweep_dir`` holds one. What others put there stays."""
        if process_rank():
            return
        folder = Path(config.sweep_dir)
        remove_many([*_kept(folder), *(folder / f"sweep.{suffix}" for suffix in ("csv", "md", "png"))])

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the run's report; a run that failed has none."""
        how = job_return.hydra_cfg
        if how is None or how.hydra.mode.name != "MULTIRUN" or process_rank():
            return
        report = job_return.return_value.result if job_return.status == JobStatus.COMPLETED else {}
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
        publish_bytes(folder / "sweep.png", table.plot())
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
    publish_bytes(folder / "sweep.csv", table.as_csv().encode())
    publish_bytes(folder / "sweep.md", table.as_markdown().encode())
    return table
