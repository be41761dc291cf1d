"""Speed, memory and numerical error of each encoder on this device, by precision. Needs no weights or images.

    python scripts/benchmark_encoders.py                       all encoders, all precisions, compiled
    python scripts/benchmark_encoders.py --encoder sd_vae --batch 64 --eager

The published architectures run with random weights (--size small for a quick try) on random inputs, drawn
anew for each precision. The error is |z - z32| / |z32| over the first 8 inputs, with z32 computed in full
float32 on the same device. Throughput is the median over several batches that are already on the device: it
measures the network, not a whole run.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from latentkit.encoders import T5, Autoencoder, DINOv3, Encoder, Random
from latentkit.runtime.forward import Forward, precision_context

PRECISIONS = ("32-true", "tf32", "16-mixed", "bf16-mixed")
WORDS = ("a", "the", "red", "green", "house", "tree", "over", "under", "bright", "small", "with", "and")
FLUX = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True}
BATCHES = {"dinov3": 256, "flux_vae": 8, "sd_vae": 128, "t5": 256}


def encoders(weights: Random) -> dict[str, Encoder]:
    """The four encoders at their usual input sizes."""
    common = {"weights": weights, "model": "random"}
    return {
        "dinov3": DINOv3(**common),
        "flux_vae": Autoencoder(name="flux_vae", architecture=FLUX, crop="bucket", **common),
        "sd_vae": Autoencoder(name="sd_vae", **common),
        "t5": T5(**common),
    }


def inputs(
    encoder: Encoder, batch: int, rng: np.random.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    """A batch of smooth random images, or of random captions."""
    if encoder.geometry is None:
        captions = [" ".join(rng.choice(WORDS, 12)) for _ in range(batch)]
        tensors, _ = encoder.batch(captions, captions)
    else:
        height, width = encoder.geometry.shape(1024, 1024)
        coarse = torch.from_numpy(rng.random((batch, 3, height // 16, width // 16), np.float32))
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        noise = torch.from_numpy(rng.normal(0, 4, (height, width, 3)).astype(np.float32))
        pixels = (smooth.permute(0, 2, 3, 1) * 255 + noise).clamp(0, 255)
        pixels = pixels if encoder.geometry.dtype == "float32" else pixels.round().byte()
        tensors, _ = encoder.batch([str(i) for i in range(batch)], pixels.contiguous())
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def seconds_a_batch(run: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of a call, including the wait for the device."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        began = time.perf_counter()
        run()
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--encoder", action="append", choices=sorted(BATCHES), help="repeat for several")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--batch", type=int, help="inputs a batch; each encoder has a default")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--size", choices=("small", "real"), default="real")
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table("encoder", "precision", "batch", "inputs/s", "peak GiB", "error", "first call s")
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for name, encoder in encoders(Random(size=arguments.size)).items():
            if arguments.encoder and name not in arguments.encoder:
                continue
            batch = arguments.batch or BATCHES[name]
            compiled = device.type == "cuda" and not arguments.eager
            for precision in arguments.precision or PRECISIONS:
                row = measure(encoder, precision, batch, arguments.repeats, compiled, device, rng)
                table.add_row(name, *row)
    Console(width=100).print(table)


def measure(
    encoder: Encoder,
    precision: str,
    batch: int,
    repeats: int,
    compiled: bool,
    device: torch.device,
    rng: np.random.Generator,
) -> list[str]:
    """One row of the table."""
    if encoder.name == "t5" and precision == "16-mixed":
        return [precision, "", "", "", "overflows", ""]
    torch.compiler.reset()
    network = dataclasses.replace(encoder, channels_last=compiled).load()
    forward = Forward(network, precision, compiled=compiled, shapes_vary=encoder.shapes_vary).to(device)
    tensors = inputs(encoder, batch, rng, device)
    with precision_context("32-true", device):
        exact = next(iter(network.forward(**{k: v[:8] for k, v in tensors.items()}).values())).double()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    outputs = next(iter(forward(tensors).result().outputs.values()))
    error = float((outputs[:8].double() - exact).norm() / exact.norm())
    first = time.perf_counter() - began
    rate = batch / seconds_a_batch(lambda: forward(tensors), repeats)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return [precision, f"{batch}", f"{rate:,.0f}", f"{peak:.1f}", f"{error:.2%}", f"{first:.0f}"]


if __name__ == "__main__":
    main()
