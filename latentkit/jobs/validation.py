"""What a user of ``latentkit.evaluate`` chose, before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from latentkit.errors import UsageError
from latentkit.evaluation.sets.open import existing
from latentkit.evaluation.statistics import is_own
from latentkit.jobs.collection import chosen
from latentkit.jobs.config import build
from latentkit.jobs.hardware import check_launch, fill_vram
from latentkit.runtime.device import find_device

CROPS = ("adm", "resize", "none")
DEMO = "demo"
"""The dataset that nobody had to choose."""


def validate(cfg: DictConfig) -> None:
    """Fill in what a VRAM profile decides, before anything is opened or encoded.

    Raises:
        UsageError: a value cannot be meant.
    """
    if not cfg.metrics:
        raise UsageError("no metric: give metric=NAME")
    if cfg.crop is not None and cfg.crop not in CROPS:
        raise UsageError(f"crop={cfg.crop}: choose one of {', '.join(CROPS)}")
    if cfg.limit is not None and cfg.limit < 2:
        raise UsageError(f"limit={cfg.limit}: at least 2")
    if cfg.workers is not None and cfg.workers < 0:
        raise UsageError(f"workers={cfg.workers}: must be at least 0")
    if not cfg.report_dir or (Path(cfg.report_dir).exists() and not Path(cfg.report_dir).is_dir()):
        raise UsageError(f"report_dir={cfg.report_dir}: give a folder")
    if cfg.generated is None and cfg.reference is not None and _is_demo_by_default():
        raise UsageError("reference without generated: give generated=PATH, or dataset=NAME for its latents")
    for key in ("generated", "reference"):
        if cfg[key] is not None:
            existing(cfg[key], or_statistics=key == "reference")
    if cfg.save_reference is not None:
        cfg.save_reference = str(Path(cfg.save_reference).expanduser())
        _check_save_reference(Path(cfg.save_reference))
    fill_vram(cfg.vram, find_device(cfg.trainer.accelerator))
    build(cfg.decoder, "decoder")
    for name in cfg.metrics:
        build(cfg.metrics[name], f"metrics.{name}")
    check_launch(cfg.trainer)


def _is_demo_by_default() -> bool:
    typed = HydraConfig.get().overrides.task
    return chosen("dataset") == DEMO and not any(word.startswith("dataset=") for word in typed)


def _check_save_reference(path: Path) -> None:
    if path.suffix != ".npz":
        raise UsageError(f"save_reference={path}: give FILE.npz")
    if path.exists() and not is_own(path):
        raise UsageError(f"save_reference={path} exists, and it is not latentkit's: give another file")
    there = next(folder for folder in path.resolve().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"save_reference={path}: {there} is no folder that can be written to")
