"""Both sides of an evaluation, opened as the configuration asks."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from latentkit.encoders import LatentDecoder
from latentkit.encoders.contract import ContractError
from latentkit.errors import UsageError
from latentkit.evaluation.compatibility import CROPS, AsTheyAre, Decodable, check_originals, recorded_geometry
from latentkit.evaluation.picture_set import FirstOf, PictureSet
from latentkit.evaluation.sets.latents import Reconstructions
from latentkit.evaluation.sets.open import existing, open_own, open_set
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.statistics import is_statistics
from latentkit.jobs.collection import chosen
from latentkit.jobs.config import build
from latentkit.pixels import AdmCrop, Geometry

DEMO = "demo"
"""The dataset that nobody had to choose."""

USUAL_SIZE = 256
"""Of a crop whose size was not given."""


@dataclass(frozen=True)
class Generated:
    """What is evaluated.

    Attributes:
        pictures: or latents, no more than the limit.
        own: the dataset's own latents, without the limit; None where others were given.
        prepared: how the pictures were cropped that the latents were made from; None where nobody knows.
    """

    pictures: PictureSet
    own: Reconstructions | None = None
    prepared: Geometry | None = None


def open_generated(cfg: DictConfig, decoder: LatentDecoder) -> Generated:
    """What is evaluated.

    Raises:
        UsageError, LatentkitError: as `open_set` and `open_own`; or `size` is not what the latents are of.
    """
    decodable = Decodable(decoder, scaled=cfg.generated_scaled)
    geometry = asked_geometry(cfg)
    if cfg.generated is not None:
        if cfg.size is not None and geometry is None and not _reads_dataset(cfg):
            raise UsageError(f"size={cfg.size} does nothing by itself: give crop=adm or crop=resize with it")
        given = open_set(cfg.generated, decodable, geometry)
        prepared = None
        if given.contract and given.contract.recorded:
            if geometry:
                check_originals(f"crop={cfg.crop}: {cfg.generated}", given.contract, geometry)
            with suppress(ContractError):  # a geometry of somebody's own
                prepared = recorded_geometry(given.contract)
        return Generated(_limited(cfg, given), prepared=prepared)
    own = open_own(cfg.output_dir, decodable, build(cfg.dataset, "dataset"), _dataset_title(cfg), geometry)
    there = own.pictures.geometry
    made = there.describe().get("size") if there else None
    if cfg.size is not None and cfg.size != made:
        told = f"of pictures of size {made}" if made else "of pictures of several sizes"
        raise UsageError(f"size={cfg.size}: the latents in {cfg.output_dir} are {told}")
    return Generated(_limited(cfg, own), own, there)


def open_reference_side(cfg: DictConfig, generated: Generated) -> Path | PictureSet | None:
    """What metrics compare with: what was given, else the dataset's pictures; a path where it is statistics.

    Raises:
        UsageError, LatentkitError: as `open_set`.
    """
    if cfg.reference is not None:
        place = existing(cfg.reference, or_statistics=True)
        if is_statistics(place):
            return place
        return _limited(cfg, open_set(cfg.reference, None, asked_geometry(cfg)))
    if generated.own is not None:
        return _limited(cfg, generated.own.pictures)
    if not _reads_dataset(cfg):
        return None
    usual = generated.prepared or AdmCrop(size=cfg.size or USUAL_SIZE)
    geometry = asked_geometry(cfg) if cfg.crop else usual
    return _limited(cfg, SourcePictures(build(cfg.dataset, "dataset"), geometry, _dataset_title(cfg)))


def reference_geometry(cfg: DictConfig, generated: Generated) -> Geometry | AsTheyAre | None:
    """What a reference must be of: the crop that was asked for, else the latents'; None: nobody knows."""
    if cfg.crop == "none":
        return "as they are"
    return asked_geometry(cfg) if cfg.crop else generated.prepared


def asked_geometry(cfg: DictConfig) -> Geometry | None:
    """The crop that was asked for; None where none was, or ``none``."""
    return CROPS[cfg.crop](size=cfg.size or USUAL_SIZE) if cfg.crop in CROPS else None


def _reads_dataset(cfg: DictConfig) -> bool:
    """Whether pictures beside those of `generated` are the dataset's; nobody has chosen the demo's."""
    return cfg.reference is None and chosen("dataset") != DEMO


def _dataset_title(cfg: DictConfig) -> str:
    """``imagenet val``, or a folder's own name."""
    if chosen("dataset") == "folder":
        return Path(cfg.dataset.root).expanduser().resolve().name
    split = cfg.dataset.get("split")
    return f"{chosen('dataset')} {split}" if split else chosen("dataset")


def _limited(cfg: DictConfig, pictures: PictureSet) -> PictureSet:
    return pictures if cfg.limit is None else FirstOf(pictures, cfg.limit)
