"""What the two sides of an evaluation allow: features, metrics, and a place beside published numbers."""

from collections.abc import Iterable, Mapping, Sequence

from latentkit.encoders import Encoder
from latentkit.errors import UsageError
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference

Size = tuple[int, int]
"""Height and width of pictures."""


def extractors_of(features: Iterable[str], encoders: Sequence[Encoder]) -> list[Encoder]:
    """Those of the encoders whose outputs are among the features, ``encoder.output`` each."""
    names = {feature.rpartition(".")[0] for feature in features}
    return [encoder for encoder in encoders if encoder.name in names]


def check_extractors(metrics: Mapping[str, EvaluationMetric], encoders: Sequence[Encoder]) -> None:
    """Raise UsageError where a metric reads what none of the encoders gives, or one cannot be an extractor.

    Args:
        metrics: name -> metric.
        encoders: those that they need, and no others.
    """
    for encoder in encoders:
        if encoder.geometry is None:
            raise UsageError(f"{encoder.where}: it reads captions: an extractor reads pictures")
        if not encoder.geometry.on_tensors:
            raise UsageError(
                f"{encoder.where}: {type(encoder.geometry).__name__} prepares its pictures, on the host: "
                "an extractor prepares them on the device"
            )
    given = {f"{encoder.name}.{output}" for encoder in encoders for output in encoder.outputs}
    for name, metric in metrics.items():
        for feature in sorted({*metric.features} - {PIXELS, ORIGINALS, *given}):
            choices = ", ".join(sorted(given)) or "none"
            raise UsageError(
                f"metric={name} reads {feature}, which no extractor gives (there are: {choices})"
            )


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


def reasons_against(
    *,
    pictures: int,
    expected: int,
    limited: bool,
    random: Sequence[str],
    extractors: Mapping[str, str],
    reference_pictures: int | None,
    decoder: str | None,
    by_hand: Sequence[str],
    sizes: Mapping[str, Size | None],
) -> list[str]:
    """Why the numbers are not comparable; empty when they are.

    Args:
        pictures: generated ones, or reconstructions.
        expected: how many the published numbers are of.
        limited: only the first pictures were taken.
        random: what had random weights: ``the decoder``, ``inception`` ...
        extractors: name -> precision of its forward pass.
        reference_pictures: those that the reference is of; None where there is no reference, or it is not
            recorded.
        decoder: precision of its forward pass; None for pictures that nothing decoded.
        by_hand: options of the protocol that were given other values: ``protocol.pictures`` ...
        sizes: ``generated`` and ``reference`` -> the size of its pictures, None where they have several; left
            out what is not known.
    """
    reasons = []
    if random:
        reasons.append(f"random weights ({', '.join(random)})")
    if pictures != expected:
        reasons.append(f"{pictures:,} pictures, {expected:,} are usual")
    if reference_pictures is not None and reference_pictures < expected and reference_pictures != pictures:
        reasons.append(f"the reference is of {reference_pictures:,} pictures, {expected:,} are usual")
    if limited:
        reasons.append("limit: only the first pictures were taken")
    reasons += [f"{option} was set by hand" for option in by_hand]
    for name, precision in extractors.items():
        if precision != "32-true":
            reasons.append(f"{name} ran in {precision}")
    if decoder == "bf16-mixed":
        reasons.append("the decoder ran in bf16-mixed, which moves FID by more than its last digit")
    reasons += [f"the {side} pictures are of several sizes" for side, size in sizes.items() if size is None]
    told = {side: f"{size[1]}x{size[0]}" for side, size in sizes.items() if size is not None}
    if len(set(told.values())) > 1:
        reasons.append(f"pictures of {told['generated']} stand against a reference of {told['reference']}")
    return reasons
