"""One evaluation: built from a configuration, run and reported."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from latentkit.encoders import LatentDecoder
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.build_report import describe
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric
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


@dataclasses.dataclass(frozen=True)
class EvaluationJob:
    """Everything that one evaluation needs, opened and checked; no network is loaded yet.

    Attributes:
        generated, reference: the two sides; no reference where no metric asks for one.
        metrics: those that these sides allow.
        left_out: metric -> why not.
        extractors: those whose features the metrics read.
        decoder: None where the generated side is pictures.
        by_originals: whether the reference is the pictures that the latents were made from.
        without_latents: the dataset's pictures that its latents lack.
        unrecorded: latents of which nobody recorded what they were made from.
        folder: of the results.
        rank: this process's number among those of one run; only process 0 speaks and writes.
    """

    generated: PictureSet
    reference: Reference | None
    metrics: dict[str, EvaluationMetric]
    left_out: dict[str, str]
    extractors: list[Extractor]
    decoder: LatentDecoder | None
    by_originals: bool
    without_latents: int
    unrecorded: int
    folder: ReportFolder
    cfg: DictConfig
    device: Device
    rank: int
    console: Console
    began: float
    _found: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Statistics of the reference that this run has added."""
    not_kept: list[str] = dataclasses.field(default_factory=list)
    """Why statistics of the reference could not be kept."""

    @classmethod
    def from_config(cls, cfg: DictConfig) -> EvaluationJob:
        """Open both sides and build what they need, of values that `validate` has passed.

        Raises:
            UsageError, LatentkitError: one line each.
        """
        began = time.monotonic()
        quiet_libraries()
        several = cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1
        rank = process_rank(cfg.trainer.devices) if several else 0
        device = find_device(cfg.trainer.accelerator)
        metrics = {name: build(cfg.metrics[name], f"metrics.{name}") for name in map(str, cfg.metrics)}
        folder = ReportFolder(Path(cfg.report_dir))
        decoder: LatentDecoder = build(cfg.decoder, "decoder")
        opened = open_generated(cfg, decoder)
        generated, own = opened.pictures, opened.own
        folder.check(generated.keys if cfg.save_images else None)
        pictures = open_reference_side(cfg, opened)
        left_out = _not_allowed(metrics, generated, referenced=pictures is not None)
        _refuse_what_was_asked_for(cfg, left_out, metrics)
        metrics = {name: metric for name, metric in metrics.items() if name not in left_out}
        extractors = _build_extractors(cfg, metrics)
        reference = None
        if pictures is not None and any(metric.compares for metric in metrics.values()):
            reference = open_reference(
                pictures,
                geometry=reference_geometry(cfg, opened),
                orient=own.pictures.source.orient if own else None,
                extractors={extractor.name: extractor.identity() for extractor in extractors},
                folder=Path(cfg.references_dir),
                names={name for metric in metrics.values() for name in metric.statistics},
            )
            lacking = _not_served(reference, metrics)
            _refuse_what_was_asked_for(cfg, lacking, metrics)
            left_out |= lacking
            metrics = {name: metric for name, metric in metrics.items() if name not in lacking}
        if cfg.save_reference is not None:
            if reference is None:
                raise UsageError("save_reference: no metric of this run compares with a reference")
            reference.check_saving(Path(cfg.save_reference))
        return cls(
            generated=generated,
            reference=reference,
            metrics=metrics,
            left_out=left_out,
            extractors=extractors,
            decoder=decoder.fitted(device.kind) if generated.latents else None,
            by_originals=own is not None and cfg.reference is None,
            without_latents=own.left_out if own else 0,
            unrecorded=own.unrecorded if own else 0,
            folder=folder,
            cfg=cfg,
            device=device,
            rank=rank,
            console=Console(stderr=True, quiet=rank > 0),
            began=began,
        )

    def lock(self) -> AbstractContextManager[object]:
        """One evaluation at a time writes into a folder; held by process 0."""
        return nullcontext() if self.rank > 0 else OutputLock(self.folder.path)

    def announce(self) -> None:
        """Say what will be done, before anything is loaded."""
        say = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
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
        reference = self.reference
        return evaluate_sets(
            self.generated,
            self.metrics,
            self.extractors,
            self.decoder,
            make_trainer,
            reference=reference.pictures if reference else None,
            by_originals=self.by_originals,
            statistics=reference.statistics if reference else None,
            keep_statistics=self._keep,
            images=self.folder.images if self.cfg.save_images else None,
            batch_size=self.decoder.batch_size if self.decoder else self.cfg.batch_size,
            workers=decoding_workers(self.cfg.workers),
            console=self.console,
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
        report = describe(self, result)
        sheet = None
        if result.gallery:
            note = f"{report.name}: {readable_count(len(self.generated), 'picture')}, by PSNR"
            sheet = reconstruction_sheet(
                result.gallery, note + "; RANDOM WEIGHTS: the pictures mean nothing" * bool(self.random)
            )
        content = report.to_dict()
        there = self.folder.publish(content, sheet, save_images=self.cfg.save_images)
        print_report(report, self.console)
        self.console.print(there, highlight=False, markup=False, soft_wrap=True)
        if self.cfg.save_reference and self.reference:
            self.reference.save(Path(self.cfg.save_reference), self._found)
            self.console.print(
                f"the reference's statistics: {self.cfg.save_reference}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        return Outcome(FAILED if result.failures else DONE, content)

    @property
    def random(self) -> tuple[str, ...]:
        """What has random weights."""
        latents = self.generated.latents
        names = ["the latents"] if latents and not latents.pretrained else []
        names += ["the decoder"] if self.decoder and not self.decoder.pretrained else []
        return (*names, *(extractor.name for extractor in self.extractors if not extractor.pretrained))

    def _keep(self, statistics: Mapping[str, np.ndarray]) -> None:
        """A full disk is no reason to lose the results."""
        assert self.reference is not None
        self._found.update(statistics)
        try:
            self.reference.keep(statistics)
        except LatentkitError as error:
            self.not_kept.append(f"what was found out of the reference is not kept: {error}")


def _not_allowed(
    metrics: Mapping[str, EvaluationMetric], generated: PictureSet, *, referenced: bool
) -> dict[str, str]:
    """Metric -> why the generated side, or the want of another, does not allow it."""
    found = {}
    for name, metric in metrics.items():
        if ORIGINALS in metric.taps and generated.originals is None:
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


def _refuse_what_was_asked_for(
    cfg: DictConfig, left_out: Mapping[str, str], metrics: Mapping[str, EvaluationMetric]
) -> None:
    """Raise UsageError unless metrics of the protocol's own set are left out, and others stay."""
    asked_by_hand = chosen("metric") != cfg.protocol.name
    if left_out and (asked_by_hand or len(left_out) == len(metrics)):
        name, reason = next(iter(left_out.items()))
        raise UsageError(f"metric={name}: {reason}")


def _too_few(name: str, metric: EvaluationMetric, whose: str, there: int) -> str:
    option = metric.min_samples_option
    decides = f" (metrics.{name}.{option} decides that)" if option else ""
    return f"it needs at least {metric.min_samples():,} pictures{decides}, {whose} has {there:,}"


def _build_extractors(cfg: DictConfig, metrics: Mapping[str, EvaluationMetric]) -> list[Extractor]:
    taps = {tap for metric in metrics.values() for tap in metric.taps} - {PIXELS, ORIGINALS}
    built = [build(cfg.extractors[name], f"extractors.{name}", name=str(name)) for name in cfg.extractors]
    return [extractor for extractor in built if not taps.isdisjoint(extractor.taps)]
