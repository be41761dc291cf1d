"""What a configuration says of devices: the VRAM profile that fits, and this process of the run."""

import os
from functools import partial

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from latentkit.errors import UsageError
from latentkit.jobs.config import build
from latentkit.runtime.device import Device, find_device, launched_externally, process_rank
from latentkit.runtime.terminal import open_console, quiet_libraries

HIGH_FROM_BYTES = 40 * 2**30
MOST_WORKERS = 16


class Process:
    """This process of a run of ``latentkit.encode`` or ``latentkit.evaluate``, and the device that it has.

    Args:
        cfg: ``vram=auto`` gets the values of the profile that fits.

    Attributes:
        several: whether the run has other processes.
        rank: this one's number among them; only process 0 speaks and writes.
        console: for people.
        make_trainer: Lightning's ``Trainer`` with the given callbacks.
        workers: processes that decode pictures for this one: as asked, else one a processor that it may use.

    Raises:
        UsageError: there is no such device, or this is a sweep whose runs would each have to start processes.
    """

    def __init__(self, cfg: DictConfig) -> None:
        quiet_libraries()
        self.several = cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1
        self.rank = process_rank(cfg.trainer.devices) if self.several else 0
        self.console = open_console(quiet=self.rank > 0)
        self.device = find_device(cfg.trainer.accelerator)
        fill_vram(cfg.vram, self.device)
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if sweep and cfg.trainer.devices != 1 and not launched_externally():
            raise UsageError(
                "a sweep over several devices has to be started by torchrun or srun, or one job at a time"
            )
        accelerator = "gpu" if self.device.kind == "cuda" else "cpu"
        self.make_trainer = partial(build, cfg.trainer, "trainer", accelerator=accelerator)
        usable = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        self.workers = usable if cfg.workers is None else cfg.workers


def fill_vram(vram: DictConfig, device: Device) -> None:
    """Give ``vram=auto`` the values of the profile that fits the device; values set by hand stay."""
    if vram.profile == "auto":
        chosen = vram.when["high" if device.free_bytes >= HIGH_FROM_BYTES else "low"]
        vram.profile = f"auto: {chosen.profile}"
        for key in ("resident", "compile", "channels_last"):
            if vram[key] is None:
                vram[key] = chosen[key]
    if vram.resident not in ("one", "all"):
        raise UsageError(f"vram.resident={vram.resident}: choose one of one, all")
