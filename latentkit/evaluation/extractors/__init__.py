"""Networks whose features the metrics compare."""

from latentkit.evaluation.extractors.dinov3 import DINOv3Extractor
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.evaluation.extractors.inception import Inception

__all__ = ["DINOv3Extractor", "Extractor", "Inception"]
