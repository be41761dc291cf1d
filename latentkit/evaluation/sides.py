"""Both sides of an evaluation, opened as the configuration says."""

from __future__ import annotations

from omegaconf import DictConfig

from latentkit.collection import chosen
from latentkit.config import build
from latentkit.evaluation.choices import DEMO
from latentkit.evaluation.decoding import VAEDecoder
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.sets.first import FirstOf
from latentkit.evaluation.sets.open import open_own, open_set
from latentkit.evaluation.sets.paired import Reconstructions
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.sets.space import Decodable
from latentkit.pixels import AdmCrop, Geometry, Squash
from latentkit.sources import Source


def open_generated(cfg: DictConfig, decoder: VAEDecoder) -> tuple[PictureSet, Reconstructions | None]:
    """What is evaluated; and, where it is the dataset's own latents, these without a limit."""
    factor, shift = decoder.factors if cfg.generated_scaled else (1.0, 0.0)
    decodable = Decodable(
        channels=decoder.latent_channels,
        factor=factor,
        shift=shift,
        scaled=cfg.generated_scaled,
        allow_random=not decoder.pretrained,
    )
    geometry = asked_geometry(cfg)
    if cfg.generated is not None:
        return _limited(cfg, open_set(cfg.generated, decodable, geometry)), None
    own = open_own(cfg.output_dir, decodable, _source(cfg), _dataset_title(cfg), geometry)
    return _limited(cfg, own), own


def reference_pictures(cfg: DictConfig, own: Reconstructions | None) -> str | PictureSet | None:
    """What metrics compare with: the path that was given, else the dataset's pictures."""
    if cfg.reference is not None:
        return str(cfg.reference)
    if own is not None:
        return _limited(cfg, own.pictures)
    if chosen("dataset") == DEMO:
        return None
    geometry = asked_geometry(cfg) if cfg.crop else AdmCrop(size=cfg.size)
    return _limited(cfg, SourcePictures(_source(cfg), geometry, _dataset_title(cfg)))


def asked_geometry(cfg: DictConfig) -> Geometry | None:
    """The crop that was asked for; None where none was, or ``none``."""
    geometries: dict[str, Geometry] = {"adm": AdmCrop(size=cfg.size), "resize": Squash(size=cfg.size)}
    return geometries.get(cfg.crop)


def _source(cfg: DictConfig) -> Source:
    source: Source = build(cfg.dataset, "dataset")
    return source


def _dataset_title(cfg: DictConfig) -> str:
    split = cfg.dataset.get("split")
    return f"{chosen('dataset')} {split}" if split else chosen("dataset")


def _limited(cfg: DictConfig, pictures: PictureSet) -> PictureSet:
    return pictures if cfg.limit is None else FirstOf(pictures, cfg.limit)
