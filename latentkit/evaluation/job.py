"""One evaluation: built from a configuration, run and reported."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from latentkit.collection import chosen
from latentkit.config import build
from latentkit.device import (
    Device,
    decoding_workers,
    find_device,
    fit_network,
    process_rank,
)
from latentkit.errors import UsageError
from latentkit.evaluation.comparability import Circumstances, reasons_against
from latentkit.evaluation.decoding import VAEDecoder
from latentkit.evaluation.extractors.extractor import Extractor
from latentkit.evaluation.metrics.metric import ORIGINALS, PIXELS, EvaluationMetric
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference, open_reference
from latentkit.evaluation.run import EvaluationResult, evaluate_sets
from latentkit.evaluation.sides import asked_geometry, open_generated, reference_pictures
from latentkit.evaluation.statistics import publish_statistics
from latentkit.exit_status import DONE, INTERRUPTED
from latentkit.provenance import provenance
from latentkit.quiet import quiet_libraries
from latentkit.readable import readable_count
from latentkit.report.evaluation import REPORT, Compared, Report, print_report
from latentkit.report.reconstructions import reconstruction_sheet
from latentkit.stores import OutputLock
from latentkit.stores.publish import publish, publish_json


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
        rank: this process's number among those of one run; only process 0 speaks and writes.
    """

    generated: PictureSet
    reference: Reference | None
    metrics: dict[str, EvaluationMetric]
    left_out: dict[str, str]
    extractors: list[Extractor]
    decoder: VAEDecoder | None
    by_originals: bool
    without_latents: int
    cfg: DictConfig
    device: Device
    rank: int
    console: Console
    began: float
    _found: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Statistics of the reference that this run has added."""

    @classmethod
    def from_config(cls, cfg: DictConfig) -> EvaluationJob:
        """Open both sides and build what they need, of values that `check_values` has passed.

        Raises:
            UsageError, LatentkitError: one line each.
        """
        began = time.monotonic()
        quiet_libraries()
        rank = process_rank() if cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1 else 0
        device = find_device(cfg.trainer.accelerator)
        metrics = {name: build(cfg.metrics[name], f"metrics.{name}") for name in map(str, cfg.metrics)}
        decoder = fit_network(build(cfg.decoder, "decoder"), device)
        generated, own = open_generated(cfg, decoder)
        pictures = reference_pictures(cfg, own)
        left_out = _left_out(cfg, metrics, generated, referenced=pictures is not None)
        metrics = {name: metric for name, metric in metrics.items() if name not in left_out}
        extractors = _build_extractors(cfg, metrics)
        reference = None
        if pictures is not None and any(metric.compares for metric in metrics.values()):
            reference = open_reference(
                pictures,
                geometry=asked_geometry(cfg) if cfg.crop or own is None else own.pictures.geometry,
                extractors={extractor.name: extractor.identity() for extractor in extractors},
                folder=Path(cfg.references_dir),
            )
        return cls(
            generated=generated,
            reference=reference,
            metrics=metrics,
            left_out=left_out,
            extractors=extractors,
            decoder=decoder if generated.latents else None,
            by_originals=own is not None and cfg.reference is None,
            without_latents=own.left_out if own else 0,
            cfg=cfg,
            device=device,
            rank=rank,
            console=Console(stderr=True, quiet=rank > 0),
            began=began,
        )

    def lock(self) -> AbstractContextManager[object]:
        """One evaluation at a time writes into a folder; held by process 0."""
        return nullcontext() if self.rank > 0 else OutputLock(self.cfg.report_dir)

    def announce(self) -> None:
        """Say what will be done, before anything is loaded."""
        say = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        if self._random:
            say(f"RANDOM WEIGHTS in {', '.join(self._random)}: the numbers mean nothing")
        against = f" against {self.reference.name}" if self.reference else ""
        say(
            f"{self.generated.name}: {readable_count(len(self.generated), 'picture')}{against}, "
            f"{', '.join(self.metrics)}, on {self.device.kind}, vram={self.cfg.vram.profile}"
        )
        for metric, reason in self.left_out.items():
            say(f"  without {metric}: {reason}")

    def run(self) -> EvaluationResult:
        """Decode, extract and compare. What becomes known of the reference is kept on the way."""
        folder = Path(self.cfg.report_dir)
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
            images=folder / "images" if self.cfg.save_images else None,
            batch_size=self.cfg.vram.batch_size["decoder"],
            workers=decoding_workers(self.cfg.workers),
            console=self.console,
        )

    def report(self, result: EvaluationResult) -> int:
        """Write report.json and reconstructions.png, print the table; the exit status.

        It is 0 in all processes but the first, as when encoding.
        """
        if self.rank > 0:
            return DONE
        if result.interrupted:
            self.console.print("interrupted: no number came of it")
            return INTERRUPTED
        report = self._describe(result)
        folder = Path(self.cfg.report_dir)
        resolved = OmegaConf.to_yaml(self.cfg, resolve=True)
        publish(folder / ".latentkit" / "config.yaml", lambda file: file.write(resolved.encode()))
        if result.gallery:
            note = f"{report.name}: {readable_count(len(self.generated), 'picture')}, by PSNR"
            sheet = reconstruction_sheet(
                result.gallery, note + "  RANDOM WEIGHTS: the pictures mean nothing" * bool(self._random)
            )
            publish(folder / "reconstructions.png", lambda file: file.write(sheet))
        publish_json(folder / REPORT, report.to_dict())
        print_report(report, self.console)
        names = [REPORT, *["reconstructions.png"] * bool(result.gallery), *["images/"] * self.cfg.save_images]
        self.console.print(f"in {folder}: {', '.join(names)}", highlight=False, markup=False, soft_wrap=True)
        if self.cfg.save_reference and self.reference:
            known = {**self.reference.statistics, **self._found}
            publish_statistics(Path(self.cfg.save_reference), known, self.reference.identity)
        return DONE

    @property
    def _random(self) -> tuple[str, ...]:
        """What has random weights."""
        latents = self.generated.latents
        names = ["the latents"] if latents and not latents.pretrained else []
        names += ["the decoder"] if self.decoder and not self.decoder.pretrained else []
        return (*names, *(extractor.name for extractor in self.extractors if not extractor.pretrained))

    def _keep(self, statistics: Mapping[str, np.ndarray]) -> None:
        assert self.reference is not None
        self.reference.keep(statistics)
        self._found.update(statistics)

    def _describe(self, result: EvaluationResult) -> Report:
        results = {
            f"r{name}" if self.by_originals and name == "fid" else name: value
            for values in result.values.values()
            for name, value in values.items()
        }
        circumstances = Circumstances(
            pictures=len(self.generated),
            expected=self.cfg.protocol.pictures,
            limited=self.cfg.limit is not None,
            random=self._random,
            extractors={extractor.name: extractor.precision for extractor in self.extractors},
            settings={
                name: found for name, metric in self.metrics.items() if (found := metric.unpublished())
            },
        )
        reasons = reasons_against(circumstances)
        reference = self.reference
        warnings = list(reference.warnings) if reference else []
        if self.without_latents:
            warnings.append(
                f"{readable_count(self.without_latents, 'picture')} of the dataset have no latents"
            )
        done = result.passes["generated"]
        pictures = sum(passed.pictures for passed in result.passes.values())
        seconds = sum(passed.seconds for passed in result.passes.values())
        return Report(
            name=Path(self.cfg.report_dir).name,
            results=results,
            left_out=self.left_out,
            comparable=not reasons,
            reasons=reasons,
            warnings=warnings,
            generated=Compared(self.generated.name, done.pictures, self.generated.identity()),
            reference=Compared(reference.name, _count(reference), reference.identity) if reference else None,
            protocol=_plain(self.cfg.protocol),
            metrics={name: _plain(self.cfg.metrics[name]) for name in self.metrics},
            decoder=self.decoder.identity() if self.decoder else None,
            extractors={extractor.name: extractor.identity() for extractor in self.extractors},
            seconds=round(time.monotonic() - self.began, 3),
            pictures_per_second=round(pictures / seconds, 3) if seconds else None,
            device=result.device,
            peak_device_bytes=done.peak_bytes,
            job=list(HydraConfig.get().overrides.task),
            provenance=provenance(),
        )


def _left_out(
    cfg: DictConfig, metrics: Mapping[str, EvaluationMetric], generated: PictureSet, *, referenced: bool
) -> dict[str, str]:
    """Metrics of the protocol's own set that these sides do not allow; one that was asked for is an error."""
    found = {}
    for name, metric in metrics.items():
        if ORIGINALS in metric.taps and not generated.paired:
            found[name] = f"{generated.name} has no originals"
        elif metric.compares and not referenced:
            found[name] = "there is no reference: give reference=PATH or dataset=NAME"
        elif len(generated) < metric.fewest():
            found[name] = (
                f"it needs at least {metric.fewest()} pictures, {generated.name} has {len(generated)}"
            )
    asked_by_hand = chosen("metric") != cfg.protocol.name
    if found and (asked_by_hand or len(found) == len(metrics)):
        name, reason = next(iter(found.items()))
        raise UsageError(f"metric={name}: {reason}")
    return found


def _build_extractors(cfg: DictConfig, metrics: Mapping[str, EvaluationMetric]) -> list[Extractor]:
    taps = {tap for metric in metrics.values() for tap in metric.taps} - {PIXELS, ORIGINALS}
    built = [build(cfg.extractors[name], f"extractors.{name}", name=str(name)) for name in cfg.extractors]
    return [extractor for extractor in built if not taps.isdisjoint(extractor.taps)]


def _count(reference: Reference) -> int | None:
    """Of the pictures behind a reference; None where statistics do not say (ADM's hold a part of theirs)."""
    if not reference.statistics and reference.pictures is not None:
        return len(reference.pictures)
    count = reference.statistics.get("count")
    return None if count is None else int(count)


def _plain(node: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}
