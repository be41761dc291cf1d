"""What each process of several does in test_metric_processes.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from feeding import feed, frechet
from recipes import features, photo

from latentkit.evaluation.metrics import (
    KID,
    EvaluationMetric,
    InceptionScore,
    PrecisionRecall,
    Reconstruction,
)

GENERATED, REFERENCE, PICTURES = features(1, 60, 16, 0), features(2, 50, 16, 0.4), 7
SHARES = {
    "uneven": lambda count, rank: (
        np.arange(count)[rank::3] if rank == 0 else np.delete(np.arange(count), np.s_[::3])
    ),
    "one has nothing": lambda count, rank: np.arange(count if rank == 0 else 0),
    "the first has nothing": lambda count, rank: np.arange(count if rank == 1 else 0),
}
"""How positions are divided among two processes."""


def new_metrics() -> dict[str, EvaluationMetric]:
    """One of each kind."""
    return {
        "fid": frechet("fid"),
        "inception_score": InceptionScore(splits=3),
        "kid": KID(subsets=4, subset_size=20),
        "precision_recall": PrecisionRecall(),
        "reconstruction": Reconstruction(),
    }


def feed_generated(metric: EvaluationMetric, places: np.ndarray) -> None:
    """Features at these positions; or as many pictures with their originals."""
    if not isinstance(metric, Reconstruction):
        return feed(metric, "generated", GENERATED, places, batch=11)
    for place in places[places < PICTURES]:
        original, other = (torch.from_numpy(photo(seed, 16, 16))[None] for seed in (place, place + 1))
        metric.update({"pixels": other, "originals": original}, torch.tensor([place]), "generated")
    return None


def work(rank: int, folder: str) -> None:
    """Do this process's share of every division, and write what came out of each."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for division, share in SHARES.items():
        for known in (False, True):
            metrics, values = new_metrics(), {}
            for name, metric in metrics.items():
                if metric.compares and known:
                    metric.load_reference(known_statistics()[name])
                elif metric.compares:
                    feed(metric, "reference", REFERENCE, share(len(REFERENCE), rank), batch=11)
                    with metric.sync_context():
                        values[f"{name} statistics"] = summed(metric.reference_statistics())
                feed_generated(metric, share(len(GENERATED), rank))
                with metric.sync_context():
                    values[name] = metric.compute()
            found[f"{division}, {known}"] = values
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def known_statistics() -> dict[str, dict[str, np.ndarray]]:
    """Metric -> the reference's statistics, from one process."""
    metrics = {name: metric for name, metric in new_metrics().items() if metric.compares}
    for metric in metrics.values():
        feed(metric, "reference", REFERENCE)
    return {name: metric.reference_statistics() for name, metric in metrics.items()}


def summed(statistics: dict[str, np.ndarray]) -> dict[str, float]:
    """A number for each array, that depends on its order."""
    return {
        name: float(array.astype(np.float64).ravel() @ np.arange(1, array.size + 1))
        for name, array in statistics.items()
    }
