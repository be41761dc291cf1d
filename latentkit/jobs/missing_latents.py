"""Latents that an evaluation needs and that are not there yet."""

import copy
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, open_dict

from latentkit.errors import UsageError
from latentkit.jobs.collection import Collection, chosen
from latentkit.jobs.encoding import encode
from latentkit.jobs.inputs import DEMO
from latentkit.prediction.plan import Comparison
from latentkit.runtime.exit_status import DONE, QUARANTINED
from latentkit.stores.output import read_source_fingerprints
from latentkit.stores.quarantine import Quarantine

_SHARED = (
    *("dataset", "store", "vram", "weights", "trainer"),
    *("output_dir", "limit", "shard_size", "seed", "workers"),
)
_OF_THE_MODEL = ("model", "subfolder", "revision", "architecture")


def encode_missing(cfg: DictConfig) -> int:
    """Encode the pictures of the evaluation's dataset that have no latents, as ``latentkit.encode`` does.

    Only where that is asked for; the demo need not be asked for. The encoder is the one of the decoder's
    name, with the decoder's model; pictures in quarantine stay there. Where no latent is missing,
    or as many as `limit` are there, whatever made them, none is encoded: autoencoders that share an encoder
    share latents.

    Args:
        cfg: of ``latentkit.evaluate``.

    Returns:
        0, or the exit status with which the encoding ended early.

    Raises:
        UsageError: there is nothing to encode, or no encoder of the decoder's name.
        LatentkitError: as encoding.
    """
    several = cfg.trainer.devices != 1
    if not cfg.encode and (cfg.generated is not None or chosen("dataset") != DEMO or several):
        return DONE
    if cfg.generated is not None:
        raise UsageError("encode=true encodes the dataset's pictures: leave generated out")
    if several:
        raise UsageError("encode=true works on one device: run latentkit.encode first, then this without it")
    name = chosen("decoder")
    encoding = compose("encode", overrides=[f"dataset={chosen('dataset')}", f"encoder={name}"])
    with open_dict(encoding):
        for key in _SHARED:
            encoding[key] = copy.deepcopy(cfg[key])
    encoder = encoding.encoders[name]
    encoder.update({key: cfg.decoder[key] for key in _OF_THE_MODEL})
    encoder.crop = cfg.crop or encoder.crop
    if "size" in encoder:
        encoder.size = cfg.size or encoder.size
    if _is_complete(encoding, name):
        return DONE
    status = encode(encoding).status
    return DONE if status == QUARANTINED else status


def _is_complete(encoding: DictConfig, name: str) -> bool:
    collection = Collection.from_config(encoding)
    store, source = collection.store, collection.source
    if store.contract(name) is None:
        return False
    root, unchanged = Path(store.root), Comparison(source).picture
    if encoding.limit is not None:
        places = {key: index for index, key in enumerate(source.keys())}
        known = (
            (places[key], before) for key, before in read_source_fingerprints(root, name) if key in places
        )
        return store.counts(name).items >= int(encoding.limit) and all(unchanged(*pair) for pair in known)
    held = Quarantine.read(root).held(name)
    return not store.missing(name, source, unchanged, lambda index: source[index].key in held)
