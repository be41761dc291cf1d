"""What a configuration says of devices: the VRAM profile that fits, and who may start processes."""

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from latentkit.errors import UsageError
from latentkit.runtime.device import Device, launched_externally

HIGH_FROM_BYTES = 40 * 2**30


def by_vram(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The value for the profile that ``vram`` is on: ``${by_vram:{low:16,high:128}}``.

    None while ``vram=auto`` has not picked one; what it picked stands behind a colon.
    """
    profile = _root_.vram.profile.rpartition(": ")[2]
    if profile == "auto":
        return None
    if profile not in values:
        raise UsageError(f"vram={profile}: there are values for {', '.join(values)} only; give them by hand")
    return values[profile]


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


def check_launch(trainer: DictConfig) -> None:
    """Raise UsageError for a sweep whose runs would each have to start processes of their own."""
    if trainer.devices != 1 and HydraConfig.get().mode == RunMode.MULTIRUN and not launched_externally():
        raise UsageError(
            "a sweep over several devices has to be started by torchrun or srun, or one job at a time"
        )
