"""What every command works on: a picture collection, and the store that holds its outputs."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from latentkit.errors import UsageError
from latentkit.jobs.config import build
from latentkit.sources import Captioned, First, Source
from latentkit.sources.library import Library
from latentkit.stores import NpyStore, Store
from latentkit.stores.captions import captions_path
from latentkit.stores.npy import npy_store


class Collection:
    """A source and its store, as the configuration has them.

    Attributes:
        name: of the dataset, as it was chosen.
        source: the pictures, with the captions that a model wrote where they have none of their own.
        store: their outputs; nothing is opened.

    Raises:
        UsageError, LatentkitError: one line each.
    """

    def __init__(self, cfg: DictConfig) -> None:
        source: Source = build(cfg.dataset, "dataset")
        self.name, self.store = chosen("dataset"), build_store(cfg)
        self.source = Captioned(source, captions_path(self.store.root))

    def first(self, limit: int | None) -> Source:
        """The source, or its first `limit` pictures. Raises UsageError when that is none."""
        return self.source if limit is None else First(self.source, limit)


def chosen(group: str) -> str:
    """The option of a group of the configuration, such as ``sd_vae`` of ``decoder``; empty for a list."""
    return HydraConfig.get().runtime.choices.get(group, "")


def build_library(cfg: DictConfig) -> Library | None:
    """The photo library's folders, which need not hold a picture; None for any other collection."""
    if not {"root", "raw", "photos"} <= cfg.dataset.keys():
        return None
    root, raw, photos = (Path(cfg.dataset[key]).expanduser() for key in ("root", "raw", "photos"))
    return Library(root, raw, photos.parent)


def build_npy_store(cfg: DictConfig) -> NpyStore:
    """The store, for what works on single arrays.

    Raises:
        UsageError: as `build_store`; or it is a store of another kind.
    """
    return npy_store(build_store(cfg))


def build_store(cfg: DictConfig) -> Store:
    """The store alone, for what does not look at pictures.

    Raises:
        UsageError: one line.
    """
    if not cfg.output_dir:
        raise UsageError("output_dir is empty: give output_dir=FOLDER")
    path = Path(cfg.output_dir)
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise UsageError(f"output_dir={cfg.output_dir}: {there} is a file: give a folder")
    if "split" in cfg.store:
        cfg.store.dataset = cfg.store.dataset or chosen("dataset")
        cfg.store.split = cfg.store.split or cfg.dataset.get("split")
    return build(cfg.store, "store")
