"""Latents against their originals: ``python evaluation_process.py OUT PICTURES PROCESSES [SECONDS]``.

Process 0 writes what came out as JSON to OUT/result.json. SECONDS is what a batch takes.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console
from toy_evaluation import MeanColour, MeanNetwork, ToySet, WeightedMean, photos

from latentkit.encoders import LatentDecoder, Random
from latentkit.errors import LatentkitError
from latentkit.evaluation.metrics import InceptionScore, Reconstruction
from latentkit.evaluation.picture_set import LatentSpace
from latentkit.evaluation.references import Reference
from latentkit.evaluation.run import evaluate_sets


class Logits(MeanColour):
    """Output ``logits`` [B, 1008]: the mean colours, less 124, by a fixed matrix."""

    outputs: ClassVar[dict[str, Any]] = {"logits": {"shape": [1008], "dtype": "float32"}}

    def build(self) -> torch.nn.Module:
        return LogitNetwork()


class LogitNetwork(MeanNetwork):
    def __init__(self) -> None:
        super().__init__(1.0, 10**6)
        matrix = torch.randn(3, 1008, generator=torch.Generator().manual_seed(0))
        self.register_buffer("matrix", matrix)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": (super().forward(pixels)["rgb"] - 124) @ self.matrix}


def main(out: Path, count: int, processes: int, seconds: float) -> int:
    if processes > 1:
        make_trainer = partial(pl.Trainer, accelerator="cpu", devices=processes, strategy="ddp")
    else:
        make_trainer = partial(pl.Trainer, accelerator="cpu", devices=1)
    generated = ToySet(
        latents=np.random.default_rng(5).standard_normal((count, 4, 2, 2)).astype(np.float16),
        space=LatentSpace(4),
        originals=photos(count),
        seconds=seconds / 4,
    )
    theirs = ToySet(photos(count + 3, first=100), name="reference")
    reference = Reference(name="reference", pictures=theirs, identity={})
    try:
        result = evaluate_sets(
            generated,
            {
                "toy": WeightedMean(),
                "inception_score": InceptionScore(splits=2, features="logits.logits"),
                "reconstruction": Reconstruction(),
            },
            [MeanColour(), Logits(name="logits")],
            LatentDecoder(model="none", weights=Random(), batch_size=4),
            make_trainer,
            reference=reference,
            images=out / "images",
            batch_size=3,
            workers=0,
            console=Console(stderr=True),
        )
    except LatentkitError as error:
        print(error, file=sys.stderr)
        return 1
    if result.values or result.interrupted:  # process 0
        gallery = {name: [(shown.key, shown.psnr) for shown in row] for name, row in result.gallery.items()}
        pictures = {side: took.pictures.total() for side, took in result.passes.items()}
        found = {"values": result.values, "gallery": gallery, "pictures": pictures}
        (out / "result.json").write_text(json.dumps(found))
    return 130 if result.interrupted and result.values == {} else 0


if __name__ == "__main__":
    folder, pictures, number, *rest = sys.argv[1:]
    sys.exit(main(Path(folder), int(pictures), int(number), float(rest[0]) if rest else 0.0))
