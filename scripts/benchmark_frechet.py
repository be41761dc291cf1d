"""Time of the Fréchet distance's trace against scipy.linalg.sqrtm. Needs no weights or images.

    python scripts/benchmark_frechet.py                  2048 features of 6000 images: full rank
    python scripts/benchmark_frechet.py --pictures 1000  rank 999

The two alternate `--repeat` times, and the fastest run of each counts. Other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.linalg import sqrtm

from latentkit.evaluation.metrics.frechet import trace_of_root


def covariance(rng: np.random.Generator, mix: np.ndarray, pictures: int) -> np.ndarray:
    """Covariance of rectified Gaussian mixtures, which resemble pooled features: float64 [d, d]."""
    return np.cov(np.maximum(rng.standard_normal((pictures, len(mix))) @ mix, 0), rowvar=False)


def main() -> None:
    """Print both times, both traces and the ratio of the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((options.features, options.features)) / options.features**0.5
    first, second = (covariance(rng, mix, options.pictures) for _ in range(2))
    ways = {
        "scipy.linalg.sqrtm": lambda: np.trace(sqrtm(first @ second)).real,
        "trace_of_root": lambda: trace_of_root(first, second),
    }
    fastest = dict.fromkeys(ways, float("inf"))
    for _ in range(options.repeat):
        for name, way in ways.items():
            began = time.perf_counter()
            trace = way()
            seconds = time.perf_counter() - began
            fastest[name] = min(fastest[name], seconds)
            print(f"{name:20} {seconds:8.2f} s   trace {trace:.10f}", flush=True)
    print(f"ratio {fastest['scipy.linalg.sqrtm'] / fastest['trace_of_root']:.1f}")


if __name__ == "__main__":
    main()
