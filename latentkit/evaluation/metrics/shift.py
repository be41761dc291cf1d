"""The distance between the means of Inception's features of two sides."""

import torch

from latentkit.evaluation.metrics.metric import EvaluationMetric


class MeanShift(EvaluationMetric):
    """Euclidean distance of the means of pool3, which is the first term of FID before it is squared."""

    name = "mean_shift"
    features = ("inception.pool3",)
    compares = True

    def __init__(self) -> None:
        super().__init__()
        for side in ("generated", "reference"):
            self.add_state(side, torch.zeros(2049, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features, positions, side):
        rows = features["inception.pool3"].double()
        getattr(self, side).add_(torch.cat([rows.new_ones(len(rows), 1), rows], dim=1).sum(0))

    def compute(self):
        means = [sums[1:] / sums[0] for sums in (self.generated, self.reference)]
        return {self.name: float((means[0] - means[1]).norm())}
