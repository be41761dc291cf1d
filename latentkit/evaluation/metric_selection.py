"""Which metrics the two sides of an evaluation allow."""

from collections.abc import Mapping, Sequence

from latentkit.errors import UsageError
from latentkit.evaluation.metrics.metric import ORIGINALS, EvaluationMetric
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference


def not_allowed(
    metrics: Mapping[str, EvaluationMetric], generated: PictureSet, *, referenced: bool
) -> dict[str, str]:
    """Metric -> why the generated side, or the want of another, does not allow it."""
    found = {}
    for name, metric in metrics.items():
        if ORIGINALS in metric.features and generated.originals is None:
            found[name] = f"{generated.name} has no originals"
        elif metric.compares and not referenced:
            found[name] = "there is no reference: give reference=PATH or dataset=NAME"
        elif len(generated) < metric.min_samples():
            found[name] = _too_few(name, metric, generated.name, len(generated))
    return found


def not_served(reference: Reference, metrics: Mapping[str, EvaluationMetric]) -> dict[str, str]:
    """Metric -> what the reference lacks for it."""
    found = {}
    for name, metric in metrics.items():
        if not metric.compares:
            continue
        lacking = [known for known in metric.statistics if known not in reference.statistics]
        if reference.pictures is None and (lacking or not metric.statistics):
            found[name] = (
                f"{reference.name} has no {', '.join(lacking) or 'pictures'}: give pictures, or statistics "
                f"that save_reference wrote with metric={name}"
            )
        elif reference.pictures is not None and reference.recorded:
            there = len(reference.pictures)
            if there < metric.min_samples():
                found[name] = _too_few(name, metric, reference.name, there)
    return found


def needed_statistics(metrics: Mapping[str, EvaluationMetric]) -> dict[str, set[str]]:
    """Statistic of a reference -> the extractors that it is of.

    Raises:
        UsageError: two metrics call statistics of different features by one name.
    """
    read: dict[str, Sequence[str]] = {}
    for name, metric in metrics.items():
        for statistic in metric.statistics:
            if (features := read.setdefault(statistic, metric.features)) != metric.features:
                raise UsageError(
                    f"metric={name}: statistics of {', '.join(features)} are called {statistic} too: "
                    f"give metrics.{name}.statistics other names"
                )
    encoders = {statistic: {name.rpartition(".")[0] for name in names} for statistic, names in read.items()}
    return {statistic: names - {""} for statistic, names in encoders.items()}


def _too_few(name: str, metric: EvaluationMetric, whose: str, there: int) -> str:
    option = metric.min_samples_option
    decides = f" (metrics.{name}.{option} decides that)" if option else ""
    return f"it needs at least {metric.min_samples():,} pictures{decides}, {whose} has {there:,}"
