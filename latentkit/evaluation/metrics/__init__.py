"""One metric a file; each agrees with the published evaluators on golden values."""

from latentkit.evaluation.metrics.fd_dinov3 import DINOv3FrechetDistance
from latentkit.evaluation.metrics.fid import FID
from latentkit.evaluation.metrics.inception_score import InceptionScore
from latentkit.evaluation.metrics.kid import KID
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric, Side
from latentkit.evaluation.metrics.precision_recall import PrecisionRecall
from latentkit.evaluation.metrics.reconstruction import Reconstruction
from latentkit.evaluation.metrics.sfid import SpatialFID

__all__ = [
    "FID",
    "KID",
    "ORIGINALS",
    "PIXELS",
    "DINOv3FrechetDistance",
    "EvaluationMetric",
    "InceptionScore",
    "PrecisionRecall",
    "Reconstruction",
    "Side",
    "SpatialFID",
]
