"""The root of every command's configuration: its keys and their types. Hydra holds what users type to it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class VramConfig:
    """How much device memory a run may take; the encoders pull from it, batch sizes by its profile.

    Attributes:
        profile: low, high, or auto (picked by free memory when the run starts).
        resident: ``one`` encoder in device memory at a time, or ``all``.
        compile: run the networks through torch.compile (never on a CPU).
        channels_last: run convolutions in channels-last memory order.
        when: the profiles that ``auto`` picks from.
    """

    profile: str = MISSING
    resident: str | None = MISSING
    compile: bool | None = MISSING
    channels_last: bool | None = MISSING
    when: dict[str, Any] | None = None


@dataclass
class CollectionConfig:
    """What every command on a collection has. ``weights`` is there because a dataset may choose it."""

    dataset: Any = MISSING
    store: Any = MISSING
    weights: Any = None
    output_dir: str = MISSING


@dataclass
class PlannedConfig(CollectionConfig):
    """What a command has that says first what it would do; the root of ``latentkit.migrate``."""

    dry_run: bool = False


@dataclass
class CaptionConfig(PlannedConfig):
    """The root of ``latentkit.caption``."""

    caption: Any = None
    shard_size: int = 10000
    limit: int | None = None
    max_failures: float = 0.01
    retry_quarantined: bool = False
    overwrite: bool = False


@dataclass
class EncodeConfig(CaptionConfig):
    """The root of ``latentkit.encode``; the groups' own options are checked when they are built."""

    encoders: dict[str, Any] = field(default_factory=dict)
    vram: VramConfig = field(default_factory=VramConfig)
    trainer: Any = MISSING
    adopt: bool = False
    flip: bool = False
    seed: int = 0
    workers: int | None = None
    progress_every: int | None = None


@dataclass
class SyncConfig(PlannedConfig):
    """The root of ``latentkit.sync``: `crawlr.sync` says what the keys mean."""

    base_url: str = MISSING
    connections: int = 16
    retries: int = 5
    deadline: float = 120.0
    limit: int | None = None
    prune: bool = False
    max_share: float = 0.2
    retry_quarantined: bool = False
    verbose: bool = False


@dataclass
class VerifyConfig(CollectionConfig):
    """The root of ``latentkit.verify``."""

    shard_size: int = 10000
    mode: str = "full"
    seed: int = 0
    fix: bool = False
    report: str | None = None


@dataclass
class PruneConfig(PlannedConfig):
    """The root of ``latentkit.prune``."""

    shard_size: int = 10000
    max_share: float = 0.2
    restore: bool = False
    verbose: bool = False


@dataclass
class ShardConfig(PlannedConfig):
    """The root of ``latentkit.shard``."""

    shards_dir: str = MISSING
    shard_size: int = 1000
    bucket: list[str] | None = None
    shuffle: bool = False
    seed: int = 0
    members: dict[str, str] = field(default_factory=dict)


@dataclass
class ProtocolConfig:
    """How a published evaluator counts.

    Attributes:
        name: of the protocol.
        shuffle_seed: numpy ``RandomState`` seed of the Inception Score's shuffle; None: in order of the keys.
        splits: equal parts of the Inception Score; None where ``split_size`` divides.
        split_size: pictures a part of the Inception Score.
        distances: ``float32`` or ``float16``, of precision and recall.
        pictures: that its published numbers are of.
    """

    name: str = MISSING
    shuffle_seed: int | None = None
    splits: int | None = None
    split_size: int | None = None
    distances: str = "float32"
    pictures: int = 50000


@dataclass
class EvaluateConfig(CollectionConfig):
    """The root of ``latentkit.evaluate``; the groups' own options are checked when they are built."""

    generated: str | None = None
    generated_scaled: bool | None = None
    reference: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    extractors: dict[str, Any] = field(default_factory=dict)
    decoder: Any = MISSING
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    vram: VramConfig = field(default_factory=VramConfig)
    trainer: Any = MISSING
    crop: str | None = None
    size: int | None = None
    encode: bool = False
    shard_size: int = 10000
    limit: int | None = None
    report_dir: str = MISSING
    references_dir: str = "outputs/references"
    save_reference: str | None = None
    save_images: bool = False
    sweep_dir: str = MISSING
    batch_size: int | None = None
    seed: int = 0
    workers: int | None = None


@dataclass
class ArchivesConfig:
    """Where ImageNet's archives are: a folder to look in, and paths that win over it."""

    folder: str = "data"
    train: str | None = None
    val: str | None = None
    devkit: str | None = None


@dataclass
class PrepareConfig:
    """The root of ``latentkit.prepare``."""

    archives: ArchivesConfig = field(default_factory=ArchivesConfig)
    output_dir: str = MISSING
    extract_dir: str = MISSING
    extract: bool = False
    allow_variant: bool = False
    overwrite: bool = False
    dry_run: bool = False


ROOTS: dict[str, type] = {
    "encode": EncodeConfig,
    "sync": SyncConfig,
    "caption": CaptionConfig,
    "migrate": PlannedConfig,
    "verify": VerifyConfig,
    "prune": PruneConfig,
    "shard": ShardConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
}
"""Verb -> schema; ``conf/<verb>.yaml`` begins its defaults with ``<verb>_schema``."""

LEAST = {"limit": 1, "workers": 0, "progress_every": 1, "connections": 1, "retries": 0}
"""Key -> the least that it may be, in any verb."""

SHARES = ("max_failures", "max_share")
"""Keys of shares, from 0 to 1."""
