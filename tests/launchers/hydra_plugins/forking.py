"""A launcher that runs each job in a process of its own and brings its return back by pickle, as joblib's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

_FORK = multiprocessing.get_context("fork")


class ForkingLauncher(Launcher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        setup_globals()
        running = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            receiver, sender = _FORK.Pipe(duplex=False)
            process = _FORK.Process(target=self._run, args=(number, list(overrides), sender))
            process.start()
            running.append((process, receiver))
        ended = []
        for process, receiver in running:
            ended.append(receiver.recv())
            process.join()
        return ended

    def _run(self, number: int, overrides: list[str], sender: Connection) -> None:
        config: Any = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        sender.send(
            run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        )
