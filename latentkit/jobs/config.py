"""Where the configuration is, what may stand in it, and the one place that makes objects of it."""

import dataclasses
import hashlib
import importlib
import inspect
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from latentkit.errors import UsageError, one_line
from latentkit.jobs import schemas

_LONGEST_NAME = 200
"""Characters of an evaluation's name; what is longer ends in a hash."""

_LISTS = (list, tuple)
_PLAIN: dict[str, tuple[type, ...]] = {
    **{"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "None": (type(None),)},
    **{"list": _LISTS, "tuple": _LISTS, "dict": (dict,)},
}
"""Annotation -> the types of a YAML value that it allows."""

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The packaged ``latentkit/conf`` of an installed wheel, else ``conf/`` of the checkout."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if folder.is_dir():
            return folder
    raise UsageError("latentkit's conf/ folder is missing: install the package again")


def register() -> None:
    """Make the schemas and resolvers known to Hydra. Safe to call again."""
    for verb, schema in schemas.ROOTS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)
    for resolver in (_basename, _sweep_dir, _shards_dir, _evaluation_name, _given, _by_vram):
        OmegaConf.register_new_resolver(resolver.__name__.lstrip("_"), resolver, replace=True)


def check_ranges(cfg: DictConfig) -> None:
    """Raise UsageError for a number that no verb takes under that key."""
    for key, least in schemas.LEAST.items():
        value = cfg.get(key)
        if value is not None and value < least:
            raise UsageError(f"{key}={value}: must be at least {least}")
    for key in schemas.SHARES:
        if not 0 <= cfg.get(key, 0) <= 1:
            raise UsageError(f"{key}={cfg[key]:g}: a share, from 0 to 1")


def _by_vram(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The value for the profile that ``vram`` is on: ``${by_vram:{low:16,high:128}}``.

    None while ``vram=auto`` has not picked one; what it picked stands behind a colon.
    """
    profile = _root_.vram.profile.rpartition(": ")[2]
    if profile == "auto":
        return None
    if profile not in values:
        raise UsageError(f"vram={profile}: there are values for {', '.join(values)} only; give them by hand")
    return values[profile]


def _basename(path: str) -> str:
    return Path(path).resolve().name or "root"


def _evaluation_name(generated: str | None, output_dir: str, reference: str | None) -> str:
    """What an evaluation is called: the generated path, or the dataset's output, and ``@`` the reference."""
    name = _path_name(generated) if generated else _basename(output_dir)
    name = f"{name}@{_path_name(reference)}" if reference else name
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _path_name(text: str) -> str:
    """A path as the name of a file; no two share one, unless they are a folder and its manifest.

    Relative to the current folder, absolute outside of it, ``/`` as ``+``, and as in a URL what is no letter,
    digit, ``_``, ``.``, ``-``, ``~`` or ``=``.
    """
    here = Path.cwd()
    path = Path(os.path.normpath(here / Path(text).expanduser()))  # a link goes by its own name
    if path.name == "manifest.json":
        path = path.parent
    return quote(str(path.relative_to(here) if here in path.parents else path), safe="/=").replace("/", "+")


def _given(key: str) -> str:
    """Stands where an experiment needs a path that has a default elsewhere; ``???`` does not replace one."""
    raise UsageError(f"{key} is not set: give {key}=PATH")


def _shards_dir(output_dir: str) -> str:
    """Where the tars of an output go: ``data/shards`` for ``data/derived``, else a folder in the output."""
    path = Path(output_dir)
    return str(path.with_name("shards") if path.name == "derived" else path / "webdataset")


def _sweep_dir(dry_run: bool) -> str:
    """Where Hydra notes a sweep (multirun.yaml); a dry run leaves nothing in the user's folders."""
    return str(Path(tempfile.gettempdir()) / "latentkit-dry-run") if dry_run else "outputs/multirun"


def build(config: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Make the object that a config node describes.

    Args:
        config: ``_target_`` and its arguments; nested nodes with a ``_target_`` are built first.
        where: the node's name in the configuration, for messages: ``dataset``, ``encoders.t5``.
        extra: arguments that win over the node's.

    Raises:
        UsageError: one line: no such target, a key that it does not take, a missing or mistyped value.
    """
    values = _resolved(config, where) if isinstance(config, DictConfig) else dict(config)
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise UsageError(f"{where}: its YAML needs a _target_, the Python class that it configures")
    try:
        module, _, name = target.rpartition(".")
        factory: Any = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's own module may raise
        raise UsageError(f"{where}: cannot import {target}: {one_line(error)}") from None
    for key, value in values.items():
        if isinstance(value, dict) and "_target_" in value:
            values[key] = build(value, f"{where}.{key}")
    values |= extra
    _check(factory, values, where)
    try:
        return factory(**values)
    except OSError as error:
        raise UsageError(f"{where}: {one_line(error)}") from None


def _resolved(config: DictConfig, where: str) -> dict[str, Any]:
    missing = [str(key) for key in config if OmegaConf.is_missing(config, key)]
    if missing:
        raise UsageError(f"{where}.{missing[0]} is not set: give {where}.{missing[0]}=VALUE")
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except InterpolationKeyError as error:
        raise UsageError(_no_origin(error, where)) from None
    except OmegaConfBaseException as error:
        internal = "UsageError raised while resolving interpolation: "
        raise UsageError(f"{where}: {str(error).splitlines()[0].removeprefix(internal)}") from None
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _no_origin(error: InterpolationKeyError, where: str) -> str:
    """A value is taken from a key that another group, or this command, does not have."""
    origin = str(error).split("'")[1]
    group = origin.partition(".")[0] if "." in origin else where
    return (
        f"{error.full_key} is taken from {origin}, which is not there: "
        f"choose another {group}, or give {error.full_key}=VALUE"
    )


def _check(factory: Any, values: Mapping[str, Any], where: str) -> None:
    """Bind the values to the factory's signature; a dataclass's plain fields are typed as well."""
    parameters = inspect.signature(factory).parameters
    for key in values:
        if key not in parameters:
            raise UsageError(f"{where}.{key}: no such option; there are {', '.join(parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in values:
            raise UsageError(f"{where}.{key} is not set: give {where}.{key}=VALUE")
    if isinstance(factory, type) and dataclasses.is_dataclass(factory):
        for key, value in values.items():
            hint = inspect.formatannotation(parameters[key].annotation).strip("'")
            _check_type(hint, value, f"{where}.{key}")


def _check_type(hint: str, value: Any, where: str) -> None:
    """Hold a plain annotation (`int`, `str | None`, `list[str]` ...) against a YAML value."""
    names = [part.strip().split("[")[0] for part in hint.split("|")]
    if any(name not in _PLAIN for name in names):
        return
    allowed = tuple(kind for name in names for kind in _PLAIN[name])
    wrong_bool = isinstance(value, bool) and bool not in allowed
    if wrong_bool or not isinstance(value, allowed):
        raise UsageError(f"{where}={value!r}: expected {hint}")
