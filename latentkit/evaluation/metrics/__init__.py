"""One metric a file; each agrees with the published evaluators on golden values."""

from latentkit.evaluation.metrics.frechet import FrechetDistance
from latentkit.evaluation.metrics.inception_score import InceptionScore
from latentkit.evaluation.metrics.kid import KID
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.metrics.precision_recall import PrecisionRecall
from latentkit.evaluation.metrics.reconstruction import Reconstruction

__all__ = [
    "KID",
    "ORIGINALS",
    "PIXELS",
    "EvaluationMetric",
    "FrechetDistance",
    "InceptionScore",
    "PrecisionRecall",
    "Reconstruction",
    "Side",
]
