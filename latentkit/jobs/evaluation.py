"""One evaluation: built from a configuration, run and reported."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from latentkit.encoders import Encoder, LatentDecoder
from latentkit.errors import UsageError
from latentkit.evaluation import comparability
from latentkit.evaluation.metrics.metric import EvaluationMetric
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.references import Reference, open_reference
from latentkit.evaluation.report_folder import ReportFolder
from latentkit.evaluation.run import EvaluationResult, evaluate_sets
from latentkit.evaluation.statistics import PICTURE_SIZE
from latentkit.jobs.collection import chosen
from latentkit.jobs.config import build
from latentkit.jobs.hardware import Process
from latentkit.jobs.inputs import open_generated, open_reference_side, reference_geometry
from latentkit.report.evaluation import print_report
from latentkit.report.sheets import reconstruction_sheet
from latentkit.runtime.exit_status import DONE, FAILED, INTERRUPTED, Outcome
from latentkit.runtime.provenance import provenance
from latentkit.runtime.readable import readable_count
from latentkit.runtime.terminal import quiet_libraries


class EvaluationJob:
    """Everything that one evaluation needs, opened and checked; no network is loaded yet.

    Args:
        cfg: of ``latentkit.evaluate``.
        process: this one; of several, only process 0 speaks and writes.

    Attributes:
        generated, reference: the two sides; no reference where no metric asks for one.
        metrics: those that these sides allow.
        left_out: metric -> why not.
        extractors: those whose features the metrics read.
        decoder: None where the generated side is pictures.
        by_originals: whether the reference is the pictures that the latents were made from.
        folder: of the results.

    Raises:
        UsageError, LatentkitError: one line each.
    """

    def __init__(self, cfg: DictConfig, process: Process) -> None:
        self.cfg, self.process, self._began = cfg, process, time.monotonic()
        self.console = process.console
        quiet_libraries()
        self.folder = ReportFolder(Path(cfg.report_dir))
        metrics = {name: build(cfg.metrics[name], f"metrics.{name}") for name in map(str, cfg.metrics)}
        decoder: LatentDecoder = build(cfg.decoder, "decoder")
        opened = open_generated(cfg, decoder)
        self.generated, own = opened.pictures, opened.own
        self.by_originals = own is not None and cfg.reference is None
        self.decoder = decoder.fitted(process.device.kind) if self.generated.latents else None
        self.folder.check(self.generated.keys if cfg.save_images else None)
        pictures = open_reference_side(cfg, opened)
        self.left_out = comparability.not_allowed(metrics, self.generated, referenced=pictures is not None)
        metrics = _without(self.left_out, metrics, cfg)
        self.extractors = _build_extractors(cfg, metrics, process.device.kind)
        self.reference: Reference | None = None
        if pictures is not None and any(metric.compares for metric in metrics.values()):
            self.reference = open_reference(
                pictures,
                geometry=reference_geometry(cfg, opened),
                orient=own.pictures.source.orient if own else None,
                extractors={extractor.name: extractor.identity() for extractor in self.extractors},
                folder=Path(cfg.references_dir),
                needed=comparability.needed_statistics(metrics),
            )
            lacking = comparability.not_served(self.reference, metrics)
            metrics = _without(lacking, metrics, cfg)
            self.left_out |= lacking
        self.metrics: dict[str, EvaluationMetric] = metrics
        if cfg.save_reference is not None:
            if self.reference is None:
                raise UsageError("save_reference: no metric of this run compares with a reference")
            self.reference.check_saving(Path(cfg.save_reference))

    def announce(self) -> None:
        """Say what will be done, before anything is loaded."""
        say = self.console.print
        if self.random:
            say(f"RANDOM WEIGHTS in {', '.join(self.random)}: the numbers mean nothing")
        against = f" against {self.reference.name}" if self.reference else ""
        say(
            f"{self.generated.name}: {readable_count(len(self.generated), 'picture')}{against}, "
            f"{', '.join(self.metrics)}, on {self.process.device.kind}, vram={self.cfg.vram.profile}"
        )
        for metric, reason in self.left_out.items():
            say(f"  without {metric}: {reason}")

    def run(self) -> EvaluationResult:
        """Decode, extract and compare. What becomes known of the reference is kept on the way."""
        if self.process.rank == 0:
            saved = self.generated.keys if self.cfg.save_images else None
            self.folder.begin(OmegaConf.to_yaml(self.cfg, resolve=True), saved)
        return evaluate_sets(
            self.generated,
            self.metrics,
            self.extractors,
            self.decoder,
            self.process.make_trainer,
            reference=self.reference,
            by_originals=self.by_originals,
            images=self.folder.images if self.cfg.save_images else None,
            batch_size=self.decoder.batch_size if self.decoder else self.cfg.batch_size,
            workers=self.process.workers,
            console=self.console,
        )

    def report(self, result: EvaluationResult) -> Outcome:
        """Write report.json and reconstructions.png, print the table.

        The exit status is 0 in all processes but the first, as when encoding.
        """
        if self.process.rank > 0:
            return Outcome(DONE, {})
        if result.interrupted:
            self.console.print("interrupted: no number came of it")
            return Outcome(INTERRUPTED, {})
        report = self._report(result)
        sheet = None
        if result.gallery:
            note = f"{report['name']}: {readable_count(len(self.generated), 'picture')}, by PSNR"
            sheet = reconstruction_sheet(
                result.gallery, note + "; RANDOM WEIGHTS: the pictures mean nothing" * bool(self.random)
            )
        there = self.folder.publish(report, sheet, save_images=self.cfg.save_images)
        print_report(report, self.console)
        self.console.print(there)
        if self.reference and (path := self.cfg.save_reference):
            self.reference.save(Path(path))
            self.console.print(f"the reference's statistics: {path}")
        return Outcome(FAILED if result.failures else DONE, report)

    def _report(self, result: EvaluationResult) -> dict[str, Any]:
        """What report.json says: the results, whether they are comparable, and all that they depend on.

        ==================  ==============================================================================
        ``name``            of the results' folder
        ``results``         value -> number
        ``left_out``        metric -> why it has no value here
        ``comparable``      whether the numbers, but for the ``unpublished``, can be held against published
                            ones
        ``reasons``         why not; empty when they can
        ``unpublished``     metric -> why its values alone cannot
        ``warnings``        what is not known, or unusual, and does not forbid it
        ``generated``,      each side: its name; how many pictures were used, null where statistics do not
        ``reference``       say; their (height, width), null where there are several sizes, or it is
                            unknown; and the identity, all that they depend on
        ``protocol``        how was counted
        ``metrics``         metric -> its options
        ``decoder``         what made pictures of latents; null for pictures
        ``extractors``      what made features of pictures
        ``job``             the arguments of the run
        ==================  ==============================================================================
        """
        generated, reference, decoder = self.generated, self.reference, self.decoder
        sizes: dict[str, comparability.Size | None] = {}
        if reference and (reference.picture_size or PICTURE_SIZE in reference.statistics):
            sizes["reference"] = reference.picture_size
        sizes.update(result.sizes.items())
        plain: Any = OmegaConf.to_container(self.cfg, resolve=True)
        protocol = plain["protocol"]
        typed = list(HydraConfig.get().overrides.task)
        reasons = comparability.reasons_against(
            pictures=len(generated),
            expected=protocol["pictures"],
            reference_pictures=reference.count if reference else None,
            limited=generated.cut or bool(reference and reference.pictures and reference.pictures.cut),
            random=self.random,
            extractors={extractor.name: extractor.precision for extractor in self.extractors},
            decoder=decoder.precision if decoder else None,
            by_hand=[word.partition("=")[0] for word in typed if word.startswith("protocol.")],
            sizes=sizes,
        )
        unpublished = {
            name: why for name, metric in self.metrics.items() if (why := metric.nonstandard_reason())
        }
        done = result.passes["generated"]
        pictures = sum(passed.pictures.total() for passed in result.passes.values())
        looking = sum(passed.seconds for passed in result.passes.values())
        return {
            "kind": "latentkit.evaluation",
            "name": self.folder.path.name,
            "results": {
                f"r{value}" if self.by_originals and value == "fid" else value: number
                for values in result.values.values()
                for value, number in values.items()
            },
            "left_out": {**self.left_out, **result.failures},
            "comparable": not reasons and not result.values.keys() <= unpublished.keys(),
            "reasons": reasons,
            "unpublished": unpublished,
            "warnings": [*(reference.warnings if reference else ()), *generated.warnings],
            "generated": _side(generated, done.pictures.total(), sizes.get("generated")),
            "reference": _side(reference, reference.count, sizes.get("reference")) if reference else None,
            "protocol": protocol,
            "metrics": {name: plain["metrics"][name] for name in self.metrics},
            "decoder": decoder.identity() if decoder else None,
            "extractors": {extractor.name: extractor.identity() for extractor in self.extractors},
            "seconds": round(time.monotonic() - self._began, 3),
            "pictures_per_second": round(pictures / looking, 3) if looking else None,
            "device": done.device,
            "peak_device_bytes": done.peak_bytes,
            "job": typed,
            "provenance": provenance(),
        }

    @property
    def random(self) -> tuple[str, ...]:
        """What has random weights."""
        latents = self.generated.latents
        names = ["the latents"] if latents and not latents.pretrained else []
        names += ["the decoder"] if self.decoder and not self.decoder.pretrained else []
        return (*names, *(extractor.name for extractor in self.extractors if not extractor.pretrained))


def _side(
    side: PictureSet | Reference, pictures: int | None, size: comparability.Size | None
) -> dict[str, Any]:
    """One of the two as report.json has it."""
    return {"name": side.name, "pictures": pictures, "size": size, "identity": side.identity}


def _without(
    left_out: Mapping[str, str], metrics: Mapping[str, EvaluationMetric], cfg: DictConfig
) -> dict[str, EvaluationMetric]:
    """The other metrics. Raises UsageError unless they are the protocol's own set, and some stay."""
    asked_by_hand = chosen("metric") != cfg.protocol.name
    if left_out and (asked_by_hand or len(left_out) == len(metrics)):
        name, reason = next(iter(left_out.items()))
        raise UsageError(f"metric={name}: {reason}")
    return {name: metric for name, metric in metrics.items() if name not in left_out}


def _build_extractors(cfg: DictConfig, metrics: Mapping[str, EvaluationMetric], device: str) -> list[Encoder]:
    """The encoders whose outputs the metrics read."""
    built: list[Encoder] = [
        build(cfg.extractors[name], f"extractors.{name}", name=str(name), group="extractors")
        for name in cfg.extractors
    ]
    read = {feature for metric in metrics.values() for feature in metric.features}
    needed = comparability.extractors_of(read, built)
    comparability.check_extractors(metrics, needed)
    return [encoder.fitted(device) for encoder in needed]
