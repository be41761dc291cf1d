"""Latents that an evaluation needs and that are not there yet."""

from __future__ import annotations

import copy

from hydra import compose
from omegaconf import DictConfig, open_dict

from latentkit.collection import dataset_name, decoder_name
from latentkit.command import DONE, QUARANTINED
from latentkit.encoding import EncodingJob
from latentkit.errors import UsageError

_SHARED = (
    *("dataset", "store", "vram", "weights", "trainer"),
    *("output_dir", "limit", "shard_size", "seed", "workers"),
)
_OF_THE_MODEL = ("model", "subfolder", "revision")


def encode_missing(cfg: DictConfig) -> int:
    """Encode the pictures of the evaluation's dataset that have no latents, as ``latentkit.encode`` does.

    The encoder is the one of the decoder's name, with the decoder's model; pictures in quarantine stay there.

    Args:
        cfg: of ``latentkit.evaluate``.

    Returns:
        0, or the exit status with which the encoding ended early.

    Raises:
        UsageError: there is nothing to encode, or no encoder of the decoder's name.
        LatentkitError: as encoding.
    """
    if cfg.generated is not None:
        raise UsageError("encode=true encodes the dataset's pictures: leave generated out")
    if cfg.trainer.devices != 1:
        raise UsageError("encode=true works on one device: run latentkit.encode first, then this without it")
    name = decoder_name()
    encoding = compose("encode", overrides=[f"dataset={dataset_name()}", f"encoder={name}"])
    with open_dict(encoding):
        for key in _SHARED:
            encoding[key] = copy.deepcopy(cfg[key])
    encoder = encoding.encoders[name]
    encoder.update({key: cfg.decoder[key] for key in _OF_THE_MODEL})
    encoder.crop, encoder.size = cfg.crop or encoder.crop, cfg.size
    job = EncodingJob.from_config(encoding)
    with job.output_lock():
        plan = job.plan()
        if not plan.todo:
            return DONE
        job.announce(plan)
        status = job.summarise(plan, job.run(plan))
    return DONE if status == QUARANTINED else status
