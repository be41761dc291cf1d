"""Encoders whose numbers numpy can compute again, and collections that say how often they were read."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from recipes import photo

from latentkit.encoders import Encoder
from latentkit.pixels import BucketCrop, Geometry, ResizeSquare
from latentkit.sources import FolderSource
from latentkit.sources.source import Stat


@dataclass(frozen=True, kw_only=True)
class MeanColour(Encoder):
    """The mean of each channel: ``mean`` [3] float32, of the picture squashed to ``size``, or in a bucket."""

    name: str = "mean"
    size: int = 16
    buckets: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry | None:
        return BucketCrop(buckets=self.buckets) if self.buckets else ResizeSquare(size=self.size)

    @property
    def stored(self) -> str:
        return "mean"

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        return {"mean": {"shape": [3], "dtype": "float32"}}

    def build(self) -> torch.nn.Module:
        return Mean()


class Mean(torch.nn.Module):
    """Keeps the size of every batch that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(len(pixels))
        return {"mean": pixels.double().mean((1, 2)).float()}


@dataclass(frozen=True, kw_only=True)
class SmallMemory(MeanColour):
    """Runs out of memory beyond ``fits`` pictures, and for a black picture even alone."""

    fits: int = 3

    def build(self) -> torch.nn.Module:
        return SmallMemoryMean(self.fits)


class SmallMemoryMean(Mean):
    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        black = (pixels.flatten(1) == 0).all(1).any()
        if len(pixels) > self.fits or black:
            self.seen.append(len(pixels))
            raise torch.OutOfMemoryError(f"no room for {len(pixels)} pictures")
        return super().forward(pixels)


@dataclass(frozen=True, kw_only=True)
class Brightness(MeanColour):
    """``mean`` is 393 times the mean of each channel, by a matrix product.

    Under float16 autocast a bright picture overflows.
    """

    def build(self) -> torch.nn.Module:
        return BrightnessNetwork()


class BrightnessNetwork(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": (pixels.float().mean((1, 2)) @ (393 * torch.eye(3))).float()}


@dataclass(frozen=True, kw_only=True)
class LogColour(MeanColour):
    """``mean`` is the logarithm of the mean of each channel: minus infinity for a black picture."""

    def build(self) -> torch.nn.Module:
        return LogNetwork()


class LogNetwork(Mean):
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": super().forward(pixels)["mean"].log()}


@dataclass(frozen=True, kw_only=True)
class WorkerKiller(MeanColour):
    """Kills a decoding process while the loop is busy with the first batch."""

    def build(self) -> torch.nn.Module:
        return WorkerKillerNetwork()


class WorkerKillerNetwork(Mean):
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.seen:
            multiprocessing.active_children()[0].kill()
            time.sleep(0.5)
        return super().forward(pixels)


@dataclass(frozen=True, kw_only=True)
class CaptionBytes(MeanColour):
    """A caption's UTF-8 bytes: ``bytes`` [32] uint8, zeros behind them."""

    name: str = "bytes"

    @property
    def geometry(self) -> None:
        return None

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        return {"bytes": {"shape": [32], "dtype": "uint8"}}

    def build(self) -> torch.nn.Module:
        return Bytes()

    def batch(
        self, keys: Sequence[str], inputs: np.ndarray | torch.Tensor | Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        rows = [np.frombuffer(str(text).encode().ljust(32, b"\0")[:32], np.uint8) for text in inputs]
        facts = [{"cut": len(str(text).encode()) > 32} for text in inputs]
        return {"codes": torch.from_numpy(np.stack(rows))}, facts


class Bytes(torch.nn.Module):
    def forward(self, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"bytes": codes}


@dataclass(kw_only=True, eq=False)
class CountedFolder(FolderSource):
    """A folder that appends a line to a file for each picture that any process reads.

    Attributes:
        log: that file.
        seconds: what reading a picture takes.
    """

    log: str
    seconds: float = 0.0

    def read(self, index: int) -> tuple[bytes, Stat | None]:
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{self[index].key}\n".encode())
        os.close(descriptor)
        time.sleep(self.seconds)
        return super().read(index)

    def reads(self) -> list[str]:
        """The keys of all pictures read so far, sorted."""
        return sorted(Path(self.log).read_text().split()) if Path(self.log).exists() else []


def paint(folder: Path, count: int, sizes: Sequence[tuple[int, int]] = ((24, 20),), offset: int = 0) -> Path:
    """``p000.png`` ... with captions; sizes (width, height) in turn. Lossless, so numpy knows the pixels."""
    folder.mkdir(exist_ok=True)
    for number in range(offset, offset + count):
        width, height = sizes[number % len(sizes)]
        Image.fromarray(photo(number, height, width)).save(folder / f"p{number:03d}.png")
        (folder / f"p{number:03d}.txt").write_text(f"picture number {number}")
    return folder


def paint_plain(path: Path, level: int) -> None:
    """A picture of one grey."""
    Image.new("RGB", (20, 20), (level, level, level)).save(path)


def expected_mean(path: Path, encoder: MeanColour) -> np.ndarray:
    """What `MeanColour` gives for a picture, [3] float32, by Pillow and numpy alone."""
    with Image.open(path) as image:
        squashed = image.convert("RGB").resize((encoder.size, encoder.size), Image.Resampling.BICUBIC)
    return np.asarray(squashed, np.float64).mean((0, 1)).astype(np.float32)
