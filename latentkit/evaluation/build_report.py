"""What an evaluation has come to, as its report has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.evaluation.comparability import Circumstances, Size, reasons_against
from latentkit.evaluation.metrics.metric import EvaluationMetric
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference
from latentkit.evaluation.sink import EvaluationResult
from latentkit.report.evaluation import Compared, Report
from latentkit.runtime.provenance import provenance


def build_report(
    result: EvaluationResult,
    *,
    name: str,
    generated: PictureSet,
    reference: Reference | None,
    by_originals: bool,
    metrics: Mapping[str, EvaluationMetric],
    options: Mapping[str, Any],
    left_out: Mapping[str, str],
    extractors: Sequence[Encoder],
    decoder: LatentDecoder | None,
    random: Sequence[str],
    protocol: Mapping[str, Any],
    typed: Sequence[str],
    seconds: float,
) -> Report:
    """The results, whether they are comparable, and all that they depend on.

    Args:
        name: of the results' folder.
        by_originals: the reference is what the generated pictures reconstruct.
        options: metric -> its configuration, as JSON values.
        left_out: metric -> why this run does not have it.
        random: what has random weights.
        protocol: its options, ``name`` and ``pictures`` among them.
        typed: the run's arguments.
        seconds: since the run began.
    """
    results = {
        f"r{value}" if by_originals and value == "fid" else value: number
        for values in result.values.values()
        for value, number in values.items()
    }
    sizes: dict[str, Size | None] = {}
    if reference and (reference.picture_size or reference.several_sizes):
        sizes["reference"] = reference.picture_size
    sizes.update(result.sizes.items())
    reasons = reasons_against(
        Circumstances(
            pictures=len(generated),
            expected=protocol["pictures"],
            reference_pictures=reference.count if reference else None,
            limited=generated.cut or bool(reference and reference.pictures and reference.pictures.cut),
            random=tuple(random),
            extractors={extractor.name: extractor.precision for extractor in extractors},
            decoder=decoder.precision if decoder else None,
            by_hand=tuple(word.partition("=")[0] for word in typed if word.startswith("protocol.")),
            sizes=sizes,
        )
    )
    unpublished = {name: why for name, metric in metrics.items() if (why := metric.nonstandard_reason())}
    done = result.passes["generated"]
    pictures = sum(passed.pictures.total() for passed in result.passes.values())
    looking = sum(passed.seconds for passed in result.passes.values())
    return Report(
        name=name,
        results=results,
        left_out={**left_out, **result.failures},
        comparable=not reasons and not result.values.keys() <= unpublished.keys(),
        reasons=reasons,
        unpublished=unpublished,
        warnings=[*(reference.warnings if reference else ()), *generated.warnings],
        generated=Compared(
            generated.name, done.pictures.total(), sizes.get("generated"), generated.identity()
        ),
        reference=Compared(reference.name, reference.count, sizes.get("reference"), reference.identity)
        if reference
        else None,
        protocol=protocol,
        metrics={name: options[name] for name in metrics},
        decoder=decoder.identity() if decoder else None,
        extractors={extractor.name: extractor.identity() for extractor in extractors},
        seconds=round(seconds, 3),
        pictures_per_second=round(pictures / looking, 3) if looking else None,
        device=done.device,
        peak_device_bytes=done.peak_bytes,
        job=typed,
        provenance=provenance(),
    )
