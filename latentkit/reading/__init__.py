"""Readers for training, over files, shards and tars. They need torch."""

from latentkit.reading.files import BucketBatchSampler, LatentFiles
from latentkit.reading.shards import LatentShards
from latentkit.reading.tars import LatentTars

__all__ = ["BucketBatchSampler", "LatentFiles", "LatentShards", "LatentTars"]
