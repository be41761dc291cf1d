"""Which device a run has, and which of a run's processes this one is."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from latentkit.errors import UsageError

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


class Device(NamedTuple):
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


def process_rank(devices: Any = 1) -> int:
    """This process's number among those of one run, as Lightning is going to count them.

    torchrun's ``RANK``, else ``SLURM_PROCID``, else ``NODE_RANK`` * processes of a node + ``LOCAL_RANK``. The
    processes that Lightning starts have both of these, also where SLURM has given its shell a number.

    Args:
        devices: ``trainer.devices``.
    """
    place = os.environ
    if "RANK" in place:
        return int(place["RANK"])
    if "SLURM_PROCID" in place and not {"NODE_RANK", "LOCAL_RANK"} <= place.keys():
        return int(place["SLURM_PROCID"])
    node = int(place.get("NODE_RANK", place.get("GROUP_RANK", 0)))
    return (node and node * _processes(devices)) + int(place.get("LOCAL_RANK", 0))


def _processes(devices: Any) -> int:
    """Of one node."""
    if str(devices) in ("auto", "-1"):
        import torch

        return max(1, torch.cuda.device_count())
    if isinstance(devices, str) and "," in devices:
        return len(devices.strip(",").split(","))
    return int(devices) if isinstance(devices, int | str) else len(devices)


def launched_externally() -> bool:
    """Whether torchrun or SLURM starts the processes, rather than the first of them."""
    return "RANK" in os.environ or "SLURM_PROCID" in os.environ
