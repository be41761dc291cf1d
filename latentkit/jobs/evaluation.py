"""One evaluation: built from a configuration, run and reported."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.errors import UsageError
from latentkit.evaluation.build_report import build_report
from latentkit.evaluation.extractors.features import check_extractors, extractors_of
from latentkit.evaluation.metrics.metric import ORIGINALS, EvaluationMetric
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference, open_reference
from latentkit.evaluation.report_folder import ReportFolder
from latentkit.evaluation.run import evaluate_sets
from latentkit.evaluation.sink import EvaluationResult
from latentkit.jobs.collection import chosen
from latentkit.jobs.config import build
from latentkit.jobs.inputs import open_generated, open_reference_side, reference_geometry
from latentkit.report.evaluation import print_report
from latentkit.report.reconstructions import reconstruction_sheet
from latentkit.runtime.device import (
    Device,
    decoding_workers,
    find_device,
    process_rank,
)
from latentkit.runtime.exit_status import DONE, FAILED, INTERRUPTED, Outcome
from latentkit.runtime.quiet import quiet_libraries
from latentkit.runtime.readable import readable_count
from latentkit.stores import OutputLock


class EvaluationJob:
    """Everything that one evaluation needs, opened and checked; no network is loaded yet.

    Args:
        cfg: with values that `validate` has passed.

    Attributes:
        generated, reference: the two sides; no reference where no metric asks for one.
        metrics: those that these sides allow.
        left_out: metric -> why not.
        extractors: those whose features the metrics read.
        decoder: None where the generated side is pictures.
        by_originals: whether the reference is the pictures that the latents were made from.
        folder: of the results.
        rank: this process's number among those of one run; only process 0 speaks and writes.

    Raises:
        UsageError, LatentkitError: one line each.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self._began = cfg, time.monotonic()
        quiet_libraries()
        several = cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1
        self.rank = process_rank(cfg.trainer.devices) if several else 0
        self.console = Console(stderr=True, quiet=self.rank > 0)
        self.device = find_device(cfg.trainer.accelerator)
        self.folder = ReportFolder(Path(cfg.report_dir))
        metrics = {name: build(cfg.metrics[name], f"metrics.{name}") for name in map(str, cfg.metrics)}
        decoder: LatentDecoder = build(cfg.decoder, "decoder")
        opened = open_generated(cfg, decoder)
        self.generated, own = opened.pictures, opened.own
        self.by_originals = own is not None and cfg.reference is None
        self.decoder = decoder.fitted(self.device.kind) if self.generated.latents else None
        self.folder.check(self.generated.keys if cfg.save_images else None)
        pictures = open_reference_side(cfg, opened)
        self.left_out = _not_allowed(metrics, self.generated, referenced=pictures is not None)
        metrics = _without(self.left_out, metrics, cfg)
        self.extractors = _build_extractors(cfg, metrics, self.device)
        self.reference: Reference | None = None
        if pictures is not None and any(metric.compares for metric in metrics.values()):
            self.reference = open_reference(
                pictures,
                geometry=reference_geometry(cfg, opened),
                orient=own.pictures.source.orient if own else None,
                extractors={extractor.name: extractor.identity() for extractor in self.extractors},
                folder=Path(cfg.references_dir),
                needed=_needed_statistics(metrics),
            )
            lacking = _not_served(self.reference, metrics)
            metrics = _without(lacking, metrics, cfg)
            self.left_out |= lacking
        self.metrics: dict[str, EvaluationMetric] = metrics
        if cfg.save_reference is not None:
            if self.reference is None:
                raise UsageError("save_reference: no metric of this run compares with a reference")
            self.reference.check_saving(Path(cfg.save_reference))

    def lock(self) -> AbstractContextManager[object]:
        """One evaluation at a time writes into a folder; held by process 0."""
        return nullcontext() if self.rank > 0 else OutputLock(self.folder.path)

    def announce(self) -> None:
        """Say what will be done, before anything is loaded."""
        say = self._say
        if self.random:
            say(f"RANDOM WEIGHTS in {', '.join(self.random)}: the numbers mean nothing")
        against = f" against {self.reference.name}" if self.reference else ""
        say(
            f"{self.generated.name}: {readable_count(len(self.generated), 'picture')}{against}, "
            f"{', '.join(self.metrics)}, on {self.device.kind}, vram={self.cfg.vram.profile}"
        )
        for metric, reason in self.left_out.items():
            say(f"  without {metric}: {reason}")

    def run(self) -> EvaluationResult:
        """Decode, extract and compare. What becomes known of the reference is kept on the way."""
        if self.rank == 0:
            saved = self.generated.keys if self.cfg.save_images else None
            self.folder.begin(OmegaConf.to_yaml(self.cfg, resolve=True), saved)
        make_trainer = partial(
            build, self.cfg.trainer, "trainer", accelerator="gpu" if self.device.kind == "cuda" else "cpu"
        )
        known: dict[str, Any] = {}
        if reference := self.reference:
            known = {"statistics": reference.statistics, "keep_statistics": reference.keep}
        return evaluate_sets(
            self.generated,
            self.metrics,
            self.extractors,
            self.decoder,
            make_trainer,
            reference=reference.pictures if reference else None,
            by_originals=self.by_originals,
            images=self.folder.images if self.cfg.save_images else None,
            batch_size=self.decoder.batch_size if self.decoder else self.cfg.batch_size,
            workers=decoding_workers(self.cfg.workers),
            console=self.console,
            **known,
        )

    def report(self, result: EvaluationResult) -> Outcome:
        """Write report.json and reconstructions.png, print the table.

        The exit status is 0 in all processes but the first, as when encoding.
        """
        if self.rank > 0:
            return Outcome(DONE, {})
        if result.interrupted:
            self.console.print("interrupted: no number came of it")
            return Outcome(INTERRUPTED, {})
        cfg = self.cfg
        report = build_report(
            result,
            name=self.folder.path.name,
            generated=self.generated,
            reference=self.reference,
            by_originals=self.by_originals,
            metrics=self.metrics,
            options=_plain(cfg.metrics),
            left_out=self.left_out,
            extractors=self.extractors,
            decoder=self.decoder,
            random=self.random,
            protocol=_plain(cfg.protocol),
            typed=list(HydraConfig.get().overrides.task),
            seconds=time.monotonic() - self._began,
        )
        sheet = None
        if result.gallery:
            note = f"{report.name}: {readable_count(len(self.generated), 'picture')}, by PSNR"
            sheet = reconstruction_sheet(
                result.gallery, note + "; RANDOM WEIGHTS: the pictures mean nothing" * bool(self.random)
            )
        content = report.to_dict()
        there = self.folder.publish(content, sheet, save_images=cfg.save_images)
        print_report(report, self.console)
        self._say(there)
        if cfg.save_reference and self.reference:
            self.reference.save(Path(cfg.save_reference))
            self._say(f"the reference's statistics: {cfg.save_reference}")
        return Outcome(FAILED if result.failures else DONE, content)

    @property
    def random(self) -> tuple[str, ...]:
        """What has random weights."""
        latents = self.generated.latents
        names = ["the latents"] if latents and not latents.pretrained else []
        names += ["the decoder"] if self.decoder and not self.decoder.pretrained else []
        return (*names, *(extractor.name for extractor in self.extractors if not extractor.pretrained))

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _not_allowed(
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


def _not_served(reference: Reference, metrics: Mapping[str, EvaluationMetric]) -> dict[str, str]:
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


def _without(
    left_out: Mapping[str, str], metrics: Mapping[str, EvaluationMetric], cfg: DictConfig
) -> dict[str, EvaluationMetric]:
    """The other metrics. Raises UsageError unless they are the protocol's own set, and some stay."""
    asked_by_hand = chosen("metric") != cfg.protocol.name
    if left_out and (asked_by_hand or len(left_out) == len(metrics)):
        name, reason = next(iter(left_out.items()))
        raise UsageError(f"metric={name}: {reason}")
    return {name: metric for name, metric in metrics.items() if name not in left_out}


def _needed_statistics(metrics: Mapping[str, EvaluationMetric]) -> dict[str, set[str]]:
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


def _build_extractors(
    cfg: DictConfig, metrics: Mapping[str, EvaluationMetric], device: Device
) -> list[Encoder]:
    """The encoders whose outputs the metrics read."""
    built: list[Encoder] = [
        build(cfg.extractors[name], f"extractors.{name}", name=str(name), group="extractors")
        for name in cfg.extractors
    ]
    needed = extractors_of({read for metric in metrics.values() for read in metric.features}, built)
    check_extractors(metrics, needed)
    return [encoder.fitted(device.kind) for encoder in needed]


def _plain(node: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in values.items()}
