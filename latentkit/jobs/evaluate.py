"""An evaluation as its command runs it: mistakes told before the libraries load, missing latents encoded."""

import copy
import os
from contextlib import nullcontext
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from latentkit.errors import UsageError
from latentkit.evaluation.compatibility import CROPS
from latentkit.evaluation.sets.open import existing
from latentkit.evaluation.statistics import is_own
from latentkit.jobs.collection import Collection, chosen
from latentkit.jobs.config import build
from latentkit.jobs.encoding import encode
from latentkit.jobs.hardware import Process
from latentkit.jobs.inputs import DEMO
from latentkit.prediction.plan import Comparison
from latentkit.runtime.exit_status import DONE, QUARANTINED, Outcome
from latentkit.stores import OutputLock
from latentkit.stores.output import read_source_fingerprints
from latentkit.stores.quarantine import Quarantine

_SHARED = (
    *("dataset", "store", "vram", "weights", "trainer"),
    *("output_dir", "limit", "shard_size", "seed", "workers"),
)
_OF_THE_MODEL = ("model", "subfolder", "revision", "architecture")


def evaluate(cfg: DictConfig) -> Outcome:
    """Encode what is missing if asked, open both sides, decode and compare; what report.json says.

    Raises:
        UsageError, LatentkitError: one line.
    """
    process = _checked(cfg)
    if status := _encode_missing(cfg):
        return Outcome(status, {})
    from latentkit.jobs.evaluation import EvaluationJob

    job = EvaluationJob(cfg, process)
    job.announce()
    with nullcontext() if process.rank > 0 else OutputLock(job.folder.path):
        return job.report(job.run())


def _checked(cfg: DictConfig) -> Process:
    """What can be told before anything is opened or encoded, and the device.

    Raises:
        UsageError: a value cannot be meant.
    """
    if not cfg.metrics:
        raise UsageError("no metric: give metric=NAME")
    if cfg.crop not in (None, "none", *CROPS):
        raise UsageError(f"crop={cfg.crop}: choose one of {', '.join(CROPS)}, none")
    if cfg.limit is not None and cfg.limit < 2:
        raise UsageError(f"limit={cfg.limit}: at least 2")
    if not cfg.report_dir or (Path(cfg.report_dir).exists() and not Path(cfg.report_dir).is_dir()):
        raise UsageError(f"report_dir={cfg.report_dir}: give a folder")
    by_default = not any(word.startswith("dataset=") for word in HydraConfig.get().overrides.task)
    if cfg.generated is None and cfg.reference is not None and chosen("dataset") == DEMO and by_default:
        raise UsageError("reference without generated: give generated=PATH, or dataset=NAME for its latents")
    for key in ("generated", "reference"):
        if cfg[key] is not None:
            existing(cfg[key], or_statistics=key == "reference")
    if cfg.save_reference is not None:
        cfg.save_reference = str(Path(cfg.save_reference).expanduser())
        _check_save_reference(Path(cfg.save_reference))
    process = Process(cfg)
    build(cfg.decoder, "decoder")
    for name in cfg.metrics:
        build(cfg.metrics[name], f"metrics.{name}")
    return process


def _check_save_reference(path: Path) -> None:
    if path.suffix != ".npz":
        raise UsageError(f"save_reference={path}: give FILE.npz")
    if path.exists() and not is_own(path):
        raise UsageError(f"save_reference={path} exists, and it is not latentkit's: give another file")
    there = next(folder for folder in path.resolve().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"save_reference={path}: {there} is no folder that can be written to")


def _encode_missing(cfg: DictConfig) -> int:
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
    collection = Collection(encoding)
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
