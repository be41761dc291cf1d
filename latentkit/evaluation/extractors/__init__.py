"""Encoders that are there for their features alone, and how any encoder gives features of pictures."""

from latentkit.evaluation.extractors.inception import Inception

__all__ = ["Inception"]
