"""An evaluation as its command runs it. Mistakes are told before the libraries load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentkit.runtime.exit_status import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig

_NOTHING = ("", "null", "''", '""')


def with_weights(arguments: list[str]) -> list[str]:
    """Add ``weights=pretrained`` to ``generated=PATH``, unless a word that decides on weights was typed too.

    The demo is the dataset then only because none was named, and its random weights were not meant.
    """
    words = [word.partition("=")[::2] for word in arguments if "=" in word]
    typed = {key.lstrip("+"): value for key, value in words}
    if typed.get("generated", "").lower() in _NOTHING or typed.keys() & {"weights", "dataset", "experiment"}:
        return arguments
    place = [word.lstrip("+").startswith("generated=") for word in arguments].index(True)
    return [*arguments[:place], "weights=pretrained", *arguments[place:]]


def evaluate(cfg: DictConfig) -> Outcome:
    """Encode what is missing if asked, open both sides, decode and compare; what report.json says.

    Raises:
        UsageError, LatentkitError: one line.
    """
    from latentkit.jobs.inputs import validate

    validate(cfg)
    from latentkit.jobs.evaluation import EvaluationJob
    from latentkit.jobs.missing_latents import encode_missing

    if status := encode_missing(cfg):
        return Outcome(status, {})
    job = EvaluationJob(cfg)
    job.announce()
    with job.lock():
        return job.report(job.run())
