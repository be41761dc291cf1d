"""What an evaluation has come to, as its report has it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from latentkit.evaluation.comparability import Circumstances, Size, reasons_against
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference
from latentkit.evaluation.sets.first import FirstOf
from latentkit.evaluation.sink import EvaluationResult
from latentkit.report.evaluation import Compared, Report
from latentkit.runtime.provenance import provenance
from latentkit.runtime.readable import readable_count

if TYPE_CHECKING:
    from latentkit.jobs.evaluation import EvaluationJob


def describe(job: EvaluationJob, result: EvaluationResult) -> Report:
    """The results, whether they are comparable, and all that they depend on."""
    results = {
        f"r{name}" if job.by_originals and name == "fid" else name: value
        for values in result.values.values()
        for name, value in values.items()
    }
    reference = job.reference
    typed = list(HydraConfig.get().overrides.task)
    sizes: dict[str, Size | None] = dict(result.sizes.items())
    if reference and reference.picture_size:
        sizes.setdefault("reference", reference.picture_size)
    elif reference and reference.several_sizes:
        sizes.setdefault("reference", None)
    circumstances = Circumstances(
        pictures=len(job.generated),
        expected=job.cfg.protocol.pictures,
        reference_pictures=_count(reference) if reference else None,
        limited=_is_cut(job.generated) or (reference is not None and _is_cut(reference.pictures)),
        random=job.random,
        extractors={extractor.name: extractor.precision for extractor in job.extractors},
        decoder=job.decoder.precision if job.decoder else None,
        by_hand=tuple(word.partition("=")[0] for word in typed if word.startswith("protocol.")),
        sizes=sizes,
    )
    reasons = reasons_against(circumstances)
    unpublished = {name: why for name, metric in job.metrics.items() if (why := metric.nonstandard_reason())}
    done = result.passes["generated"]
    pictures = sum(passed.pictures.total() for passed in result.passes.values())
    seconds = sum(passed.seconds for passed in result.passes.values())
    return Report(
        name=job.folder.path.name,
        results=results,
        left_out={**job.left_out, **result.failures},
        comparable=not reasons and not result.values.keys() <= unpublished.keys(),
        reasons=reasons,
        unpublished=unpublished,
        warnings=_warnings(job),
        generated=Compared(
            job.generated.name, done.pictures.total(), sizes.get("generated"), job.generated.identity()
        ),
        reference=Compared(reference.name, _count(reference), sizes.get("reference"), reference.identity)
        if reference
        else None,
        protocol=_plain(job.cfg.protocol),
        metrics={name: _plain(job.cfg.metrics[name]) for name in job.metrics},
        decoder=job.decoder.identity() if job.decoder else None,
        extractors={extractor.name: extractor.identity() for extractor in job.extractors},
        seconds=round(time.monotonic() - job.began, 3),
        pictures_per_second=round(pictures / seconds, 3) if seconds else None,
        device=done.device,
        peak_device_bytes=done.peak_bytes,
        job=typed,
        provenance=provenance(),
    )


def _warnings(job: EvaluationJob) -> list[str]:
    warnings = [*(job.reference.warnings if job.reference else ()), *job.not_kept]
    if job.without_latents:
        warnings.append(f"{readable_count(job.without_latents, 'picture')} of the dataset have no latents")
    if job.unrecorded:
        warnings.append(
            f"of {readable_count(job.unrecorded, 'latent')} nobody recorded the picture: "
            "one that changed since would not be noticed"
        )
    return warnings


def _is_cut(pictures: PictureSet | None) -> bool:
    return isinstance(pictures, FirstOf) and pictures.cut


def _count(reference: Reference) -> int | None:
    """Of the pictures behind a reference; None where statistics do not say (ADM's hold a part of theirs)."""
    if reference.recorded and reference.pictures is not None:
        return len(reference.pictures)
    count = reference.statistics.get("count")
    return None if count is None else int(count)


def _plain(node: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}
