"""Captioners: pictures to a paragraph of text each. Importing it loads no torch."""

from latentkit.captioning.captioner import Answer, Captioner
from latentkit.captioning.openai import OpenAICaptioner
from latentkit.captioning.transformers import TransformersCaptioner

__all__ = ["Answer", "Captioner", "OpenAICaptioner", "TransformersCaptioner"]
