"""A verb run by Hydra: composed, once for each job of a sweep, its mistakes told in one line each."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_method
from omegaconf import DictConfig, errors, open_dict
from omegaconf.errors import OmegaConfBaseException

from latentkit.errors import LatentkitError, UsageError
from latentkit.jobs.config import check_ranges, conf_dir, register
from latentkit.runtime.exit_status import DONE, FAILED, INTERRUPTED, WRONG_USAGE, Outcome

_QUOTE = "'"


class _Ended(Outcome):
    """What came of a job, as the job returns it to Hydra.

    Launchers that run jobs in other processes bring back by pickle what those return, and Hydra drops it: so
    unpickling notes the exit status.
    """

    elsewhere: ClassVar[list[int]] = []

    @classmethod
    def brought(cls, status: int, result: dict[str, Any]) -> _Ended:
        cls.elsewhere.append(status)
        return cls(status, result)

    def __reduce__(self) -> tuple[Callable[..., _Ended], tuple[int, dict[str, Any]]]:
        return self.brought, (self.status, self.result)


def compose_and_run(verb: str, job: str, arguments: list[str]) -> int:
    """Compose the verb's YAML from arguments and do its job, once for each run of a sweep.

    Expected errors print one line and no traceback; ``HYDRA_FULL_ERROR=1`` shows the traceback.

    Args:
        job: dotted name of the function ``(cfg) -> Outcome`` that does the work.

    Returns:
        The worst exit status.

    Raises:
        KeyboardInterrupt: something was interrupted that did not say so itself.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    if not wants_traceback:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us instead of printing them
    statuses: list[int] = []

    def run(cfg: DictConfig) -> _Ended:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]  # nor do processes that the job starts inherit it
        try:
            outcome = _do(job, cfg)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except (LatentkitError, OmegaConfBaseException, OSError) as error:
            if wants_traceback:
                raise
            outcome = Outcome(_report(error), {})  # a sweep goes on with its next job
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"
        statuses.append(outcome.status)
        if outcome.status == INTERRUPTED:
            raise KeyboardInterrupt
        return _Ended(*outcome)

    _Ended.elsewhere.clear()
    typed = sys.argv[1:]
    try:
        flags = _check_arguments(arguments)
        plain = not any(value for name, value in vars(flags).items() if name != "overrides")
        if plain and not any("hydra" in word.partition("=")[0] for word in flags.overrides):
            with _composed(verb, flags.overrides) as cfg:  # hydra.main would do it twice
                run(cfg)
        else:
            sys.argv[1:] = arguments
            with _own_hydra():
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(run)()
    except KeyboardInterrupt:
        if INTERRUPTED not in statuses:
            raise
    except SystemExit as end:  # Hydra's own, after --help
        statuses.append(int(end.code or DONE))
    except BrokenPipeError:  # whoever read our lines has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        statuses.append(FAILED)
    except (LatentkitError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        statuses.append(_report(error))
    finally:
        sys.argv[1:] = typed
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    sys.stdout.flush()
    return max([*statuses, *_Ended.elsewhere], default=DONE)


def call(verb: str, job: str, overrides: list[str], config_dir: str | Path | None) -> dict[str, Any]:
    """Compose the verb's YAML from overrides and do its job once; what came of it.

    Hydra's state is afterwards what it was before: the caller may use Hydra as well.

    Raises:
        UsageError, LatentkitError, KeyboardInterrupt: as `Verb.__call__`.
    """
    flags = [word for word in overrides if word.startswith("-")]
    if flags:
        raise UsageError(f"{flags[0]}: flags are for the command line; a sweep is a loop here")
    if config_dir is not None:
        overrides = [*overrides, f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    try:
        _check_arguments(overrides)
        with _composed(verb, overrides) as cfg:
            outcome = _do(job, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_clear(error)) from error
    except OSError as error:
        raise LatentkitError(_clear(error)) from error
    if outcome.status == INTERRUPTED:
        raise KeyboardInterrupt
    return outcome.result


def _do(job: str, cfg: DictConfig) -> Outcome:
    check_ranges(cfg)
    return get_method(job)(cfg)


@contextmanager
def _composed(verb: str, overrides: list[str]) -> Iterator[DictConfig]:
    """The verb's configuration; Hydra knows it as the one that is run."""
    with _own_hydra(), hydra.initialize_config_dir(str(conf_dir()), verb, "1.3"):
        cfg = hydra.compose(verb, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra as nobody has used it yet, but for our schemas and resolvers; afterwards as it was before."""
    register()
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:  # Hydra replaces its instance on the way
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before


def _report(error: Exception) -> int:
    """Print the error; its exit status."""
    print(f"latentkit: {_clear(error)}", file=sys.stderr)
    usage = not (isinstance(error, LatentkitError) or _is_of_the_disk(error)) or isinstance(error, UsageError)
    return WRONG_USAGE if usage else FAILED


def _check_arguments(arguments: list[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides; refused is what Hydra 1.3 would answer with a traceback or its usage.

    Flags amid values, a value without a key, other flags, and an option of a group that is no name.
    """
    for word in arguments:
        if word.startswith("="):
            raise UsageError(f"{word}: there is no key before the equals sign")
    flags, unknown = get_args_parser().parse_known_args(arguments)
    for word in unknown:
        name = word.partition("=")[0]
        if name.startswith("-"):
            key = name.lstrip("-").replace("-", "_")
            raise UsageError(f"{name}: no such flag; a value is given as {key}=VALUE")
        raise UsageError(
            f"{word} stands after a flag such as -m, and other arguments stand before it: "
            "put flags before all key=value arguments, or after all of them"
        )
    if flags.resolve and not (flags.cfg or flags.help):
        raise UsageError("--resolve goes with --cfg job")
    if flags.multirun and flags.cfg:
        raise UsageError("--cfg prints one configuration: leave out -m, and of each sweep give one value")
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        group, value = override.key_or_group, override.value()
        options = value.list if isinstance(value, ChoiceSweep) else [value]
        if None in options and (conf_dir() / group).is_dir() and not override.is_delete():
            raise UsageError(_no_such_option(f"{group}/null", None))
    return flags


def _clear(error: BaseException) -> str:
    """Our own errors as they are; Hydra's and OmegaConf's on one line, without their internals."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, LatentkitError):
            return str(link)
        if isinstance(link, errors.MissingMandatoryValue):
            name = str(link).split("\n")[0].rpartition(" ")[2]
            return f"{name} is not set: give {name}=VALUE"
        link = link.__cause__ or link.__context__
    if isinstance(error, OSError) and _is_of_the_disk(error):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_option(error.missing_cfg_file, error.options)
    if isinstance(error, OverrideParseException):
        if "=" not in error.override:
            return f"{error.override}: give {error.override}=VALUE"
        why = error.message.split("\n")[0]
        why = "it cannot be read" if error.override in why else why
        how = "quote special characters twice: \"key='a, b'\"; write $HOME for ~"
        return f"{error.override}: {why} ({how})"
    at_fault = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(at_fault, errors.ConfigKeyError | errors.ConfigAttributeError):
        return _no_such_key(at_fault)
    text = str(at_fault).partition("Config search path:")[0]
    if "No match in the defaults list" in text:
        return f"{text.split(_QUOTE)[1]}: this command has no such group"
    if text.startswith("Ambiguous value"):
        key, _, values = text.split(_QUOTE)[1].partition("=")
        return f"{key}={values}: a list is written {key}=[{values}]; a run for each needs the flag -m"
    if isinstance(at_fault, OmegaConfBaseException):
        where = f"{at_fault.full_key}={at_fault.value}: " if at_fault.full_key else ""
        text = where + text.partition("\n")[0]
    return " ".join(text.replace("str is not a ListConfig, list or tuple", "a list is written [a,b]").split())


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether a file is not what anybody could expect. (Hydra's error for a missing option is an OSError.)"""
    return isinstance(error, OSError) and not isinstance(error, HydraException)


def _no_such_option(name: str, options: Sequence[str] | None) -> str:
    group = name.rpartition("/")[0]
    known = options or sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
    hint = " (a dataset of your own needs encoder=NAME)" if group == "encoder" else ""
    return f"could not find {name}; there are {', '.join(known)}{hint}"


def _no_such_key(error: OmegaConfBaseException) -> str:
    node = error.parent_node
    keys = [str(key) for key in node if key != "hydra"] if isinstance(node, Mapping | DictConfig) else []
    close = difflib.get_close_matches(str(error.key), keys, n=1)
    meant = f", did you mean {close[0]}?" if close else ""
    return f"{error.full_key}: no such key{meant} (there are {', '.join(keys)})"
