"""Which device a run has, the VRAM profile that fits it, and which of a run's processes this one is."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from latentkit.errors import UsageError


class Network(Protocol):
    """A network that is declared and not built yet, a dataclass: an encoder, a decoder."""

    @property
    def precision(self) -> str:
        """Arithmetic of its forward pass, or ``auto``."""
        ...

    @property
    def gpu_precision(self) -> str:
        """What ``auto`` stands for on a GPU."""
        ...


_Network = TypeVar("_Network", bound=Network)

HIGH_FROM_BYTES = 40 * 2**30
MOST_WORKERS = 16
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True)
class Device:
    """Attributes: kind, ``cuda`` or ``cpu``; free_bytes, device memory free now (0 on a CPU)."""

    kind: str
    free_bytes: int = 0


def find_device(accelerator: str) -> Device:
    """The device behind ``trainer.accelerator``: auto, cpu, gpu or cuda.

    torch is imported only where a GPU driver is present, so that a machine without one answers at once.

    Raises:
        UsageError: a GPU was asked for and there is none, or an accelerator that is not supported.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UsageError(f"trainer.accelerator={accelerator}: choose one of auto, cpu, gpu, cuda")
    if accelerator == "cpu":
        return Device("cpu")
    if any(Path(driver).exists() for driver in _DRIVERS):
        import torch

        if torch.cuda.is_available():
            return Device("cuda", torch.cuda.mem_get_info()[0])
    if accelerator == "auto":
        return Device("cpu")
    raise UsageError(f"trainer.accelerator={accelerator}: torch sees no GPU here; use trainer=cpu")


def fill_vram(vram: DictConfig, device: Device) -> None:
    """Give ``vram=auto`` the values of the profile that fits the device; values set by hand stay."""
    if vram.profile == "auto":
        chosen = vram.when["high" if device.free_bytes >= HIGH_FROM_BYTES else "low"]
        vram.profile = f"auto: {chosen.profile}"
        for key in ("resident", "compile", "channels_last"):
            if vram[key] is None:
                vram[key] = chosen[key]
        for encoder, size in chosen.batch_size.items():
            if vram.batch_size.get(encoder) is None:
                vram.batch_size[encoder] = size
    if vram.resident not in ("one", "all"):
        raise UsageError(f"vram.resident={vram.resident}: choose one of one, all")


def process_rank() -> int:
    """This process's number among those that Lightning, torchrun or SLURM started for one run."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def launched_externally() -> bool:
    """Whether torchrun or SLURM starts the processes, rather than the first of them."""
    return "RANK" in os.environ or "SLURM_PROCID" in os.environ


def check_launch(trainer: DictConfig) -> None:
    """Raise UsageError for a sweep whose runs would each have to start processes of their own."""
    if trainer.devices != 1 and HydraConfig.get().mode == RunMode.MULTIRUN and not launched_externally():
        raise UsageError(
            "a sweep over several devices has to be started by torchrun or srun, or one job at a time"
        )


def decoding_workers(asked: int | None) -> int:
    """Processes that decode pictures: as asked, else one a processor that this process may use."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0))) if asked is None else asked


def fit_network(network: _Network, device: Device) -> _Network:
    """With the precision that ``auto`` stands for there; compiled for a GPU only."""
    declared: Any = network
    if network.precision == "auto":
        precision = network.gpu_precision if device.kind == "cuda" else "32-true"
        declared = dataclasses.replace(declared, precision=precision)
    fitted: _Network = declared if device.kind == "cuda" else dataclasses.replace(declared, compile=False)
    return fitted
