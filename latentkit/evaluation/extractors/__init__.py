"""Encoders that are there for their features alone."""

from latentkit.evaluation.extractors.inception import Inception

__all__ = ["Inception"]
