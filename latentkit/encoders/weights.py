"""Where a network's weights come from: a folder or the Hugging Face hub, checked and hashed; or a seed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from latentkit.errors import LatentkitError, UsageError, one_line

SIZES = ("small", "real")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a model's folder must hold.

    Attributes:
        weights: stem of the weights file: ``model`` (transformers) or ``diffusion_pytorch_model``
            (diffusers). ``<stem>.safetensors``, or the shards named by ``<stem>.safetensors.index.json``.
        marker: the key of config.json that names the architecture: ``model_type`` or ``_class_name``.
        architecture: the value that it must have.
        subfolder: where in the repository or folder all this lies; "" is its top.
        tokenizer: whether a tokenizer belongs to it.
    """

    weights: str
    marker: str
    architecture: str
    subfolder: str = ""
    tokenizer: bool = False

    @property
    def patterns(self) -> list[str]:
        """The hub files that are needed, as ``allow_patterns``; no other file is downloaded."""
        names = ["config.json", f"{self.weights}.safetensors", f"{self.weights}.safetensors.index.json"]
        names += [f"{self.weights}-*-of-*.safetensors", *(TOKENIZER_FILES if self.tokenizer else ())]
        return [f"{self.subfolder}/{name}" if self.subfolder else name for name in names]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's folder on disk, checked and hashed: what was hashed is what is loaded.

    Attributes:
        folder: holds config.json and the weights, subfolder included.
        model: hub id, or ``local:<folder name>``.
        revision: the hub revision that was asked for; None for a folder.
        config: config.json's content.
        sha256: file name -> sha256 (hex) of config.json, the weights and the tokenizer's files.
    """

    folder: Path
    model: str
    revision: str | None
    config: Mapping[str, Any]
    sha256: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Random:
    """Seeded random weights, for demonstrations and measurements: shapes are right, numbers mean nothing.

    Attributes:
        seed: of the CPU generator that draws them.
        size: ``small`` is a network of a few layers with the real output shapes; ``real`` is the published
            architecture.
    """

    seed: int = 0
    size: str = "small"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise UsageError(f"weights.size={self.size}: choose one of {', '.join(SIZES)}")

    @property
    def label(self) -> str:
        """``random:<seed>``, or ``random:<seed>:real``: two labels are equal when the weights are."""
        return f"random:{self.seed}" + (":real" if self.size == "real" else "")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Published weights, from a local folder or the Hugging Face hub.

    Attributes:
        local_files_only: use what the hub's cache holds, and never the network.
    """

    local_files_only: bool = False

    def fetch(self, model: str, *, revision: str | None, layout: Layout, where: str) -> Checkpoint:
        """Find, download if need be, check and hash a model's files. No network is built.

        Args:
            model: an existing folder, or a hub id.
            revision: hub revision; not used for a folder.
            layout: what must be there.
            where: the configuration node whose ``model`` it is, for messages: ``encoders.t5``.

        Raises:
            LatentkitError: absent, gated, out of reach, damaged, or another architecture; one line each.
        """
        setting = f"{where}.model={model}"
        otherwise = f"pass {where}.model=FOLDER or weights=random"
        offline = self.local_files_only
        top = locate(model, revision, layout.patterns, offline, where=where, otherwise=otherwise)
        folder = top / layout.subfolder
        if not folder.is_dir():
            hint = f"; if its weights lie at the top, pass {where}.subfolder=''"
            raise LatentkitError(f"{setting}: there is no folder {layout.subfolder} in it{hint}")
        config = _read_config(folder, layout, setting)
        weights = _weights_files(folder, layout, setting)
        for file in weights:
            try:
                with safe_open(file, framework="numpy"):  # reads a header that describes just this many bytes
                    pass
            except (SafetensorError, OSError) as error:
                reason = f"{file.name} is damaged ({error}); download it again"
                raise LatentkitError(f"{setting}: {reason}") from None
        hashed = [folder / "config.json", *weights, *_tokenizer_files(folder, layout, setting)]
        with ThreadPoolExecutor(max_workers=8) as pool:
            digests = pool.map(file_sha256, hashed)
        sha256 = dict(zip((file.name for file in hashed), digests, strict=True))
        if Path(model).expanduser().is_dir():
            model, revision = f"local:{top.resolve().name}", None
        return Checkpoint(folder=folder, model=model, revision=revision, config=config, sha256=sha256)


def locate(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    local_files_only: bool,
    *,
    where: str,
    otherwise: str,
) -> Path:
    """The folder that a model lies in: itself, or the hub's cache, downloaded unless it is there.

    Args:
        model: an existing folder, or a hub id.
        revision: hub revision; not used for a folder.
        patterns: of the hub files that are needed; no other is downloaded.
        local_files_only: as of `Pretrained`.
        where: the configuration node whose ``model`` it is, for messages: ``encoders.t5``.
        otherwise: what else a user can do, for messages.

    Raises:
        LatentkitError: absent, gated or out of reach; one line each.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise LatentkitError(f"{where}.model={model}: this is a file; give the folder that holds config.json")
    if model.startswith(("/", ".", "~")) or "\\" in model or model.count("/") > 1:
        raise LatentkitError(f"{where}.model={model}: no such folder")
    from huggingface_hub import errors, snapshot_download

    reach = "the network is not to be used" if local_files_only else "the hub cannot be reached"
    reasons: dict[type[Exception], str] = {
        errors.GatedRepoError: f"{model} is gated: accept the licence at https://huggingface.co/{model} and "
        "run `hf auth login`",
        errors.RevisionNotFoundError: f"{model} has no revision {revision}: check {where}.revision",
        errors.RepositoryNotFoundError: f"{model} is not on the Hugging Face hub, or is private (then run "
        "`hf auth login`)",
        errors.HFValidationError: f"{where}.model={model} is neither a folder nor a hub id",
        errors.LocalEntryNotFoundError: f"{model} is not in the local cache, and {reach}",
    }
    try:
        files = snapshot_download(
            model, revision=revision, allow_patterns=list(patterns), local_files_only=local_files_only
        )
    # The hub's client passes on the errors of whichever HTTP library its version uses.
    except Exception as error:
        other = f"{model} cannot be downloaded: {type(error).__name__}: {one_line(error)[:200]}"
        text = next((text for kind, text in reasons.items() if isinstance(error, kind)), other)
        raise LatentkitError(f"{where.rpartition('.')[2]}: {text}; otherwise {otherwise}") from None
    return Path(files)


def _read_config(folder: Path, layout: Layout, setting: str) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LatentkitError(f"{setting}: no config.json in {folder}") from None
    except (OSError, ValueError) as error:
        raise LatentkitError(f"{setting}: config.json cannot be read ({error})") from None
    found = config.get(layout.marker) if isinstance(config, dict) else None
    if found != layout.architecture:
        raise LatentkitError(
            f"{setting}: wrong architecture: config.json has {layout.marker} = {found}, "
            f"{layout.architecture} is needed"
        )
    return dict(config)


def _weights_files(folder: Path, layout: Layout, setting: str) -> list[Path]:
    """The one weights file, or the shards and their index."""
    single = folder / f"{layout.weights}.safetensors"
    index = folder / f"{layout.weights}.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            shards = [folder / Path(name).name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LatentkitError(f"{setting}: {index.name} cannot be read ({error})") from None
        for shard in shards:
            if not shard.is_file():
                raise LatentkitError(f"{setting}: {shard.name}, named by {index.name}, is missing")
        return [*shards, *([single] if single.is_file() else [])]
    if single.is_file():
        return [single]
    others = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    why = f"; {', '.join(others)} may run code when read and is not loaded: convert it" if others else ""
    raise LatentkitError(f"{setting}: {single.name} is missing in {folder}{why}")


def _tokenizer_files(folder: Path, layout: Layout, setting: str) -> list[Path]:
    if not layout.tokenizer:
        return []
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "spiece.model"} & {file.name for file in files}:
        raise LatentkitError(f"{setting}: no tokenizer (tokenizer.json or spiece.model) in {folder}")
    return files


def file_sha256(file: Path) -> str:
    """sha256 of a file's bytes, hex. Raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
