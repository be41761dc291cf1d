"""One encoding job: built from a configuration, planned, run and summarised."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from latentkit.encoders import Contract, Encoder
from latentkit.errors import LatentkitError, UsageError
from latentkit.jobs.captioning import CAPTIONING, CaptionJob
from latentkit.jobs.collection import Collection
from latentkit.jobs.config import build
from latentkit.jobs.hardware import check_launch, fill_vram
from latentkit.pixels import Pillow
from latentkit.prediction.plan import Plan, check_room, make_plan
from latentkit.report.sheets import preview_sheet
from latentkit.report.summary import print_summary, publish_rates, read_rates, run_summary
from latentkit.runtime.device import (
    Device,
    decoding_workers,
    find_device,
    launched_externally,
    process_rank,
)
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.provenance import provenance
from latentkit.runtime.quiet import quiet_libraries
from latentkit.runtime.readable import readable_bytes, readable_count, readable_seconds
from latentkit.runtime.terminal import open_console
from latentkit.sources import Source
from latentkit.stores import OutputLock, Store
from latentkit.stores.npy import npy_store
from latentkit.stores.open import open_output
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.storage import publish, publish_json
from latentkit.upkeep.adopt import adopt

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from latentkit.prediction.run import RunResult


def encode(cfg: DictConfig) -> Outcome:
    """Caption, plan, encode, summarise; what summary.json says.

    Raises:
        UsageError, LatentkitError: one line.
    """
    job = build_job(cfg)
    with nullcontext() if job.rank > 0 or job.dry_run else OutputLock(job.store.root):
        if job.captions is not None and job.rank == 0 and not job.captions.fill():
            return Outcome(INTERRUPTED, {})
        return job.run()


def build_job(cfg: DictConfig) -> EncodingJob:
    """The job that a configuration asks for; cheap checks first. Writes nothing.

    Raises:
        UsageError, LatentkitError: one line.
    """
    began = time.monotonic()
    quiet_libraries()
    if not cfg.encoders:
        raise UsageError("no encoder: give encoder=NAME")
    if not 0 <= cfg.max_failures <= 1:
        raise UsageError(f"max_failures={cfg.max_failures}: a share, from 0 to 1")
    for key, least in (("progress_every", 1), ("workers", 0)):
        if cfg[key] is not None and cfg[key] < least:
            raise UsageError(f"{key}={cfg[key]}: must be at least {least}")
    collection = Collection.from_config(cfg)
    several = cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1
    rank = process_rank(cfg.trainer.devices) if several else 0
    console = open_console(quiet=rank > 0)
    captions = CaptionJob(cfg, collection, console) if cfg.caption else None
    if captions is not None and several and (launched_externally() or cfg.trainer.num_nodes != 1):
        raise UsageError("only one process captions: run latentkit.caption first, then this without it")
    device = find_device(cfg.trainer.accelerator)
    fill_vram(cfg.vram, device)
    check_launch(cfg.trainer)
    job = EncodingJob(
        dataset=collection.name,
        source=collection.first(cfg.limit),
        captions=captions,
        encoders=[
            build(cfg.encoders[name], f"encoders.{name}", name=str(name)).fitted(device.kind)
            for name in cfg.encoders
        ],
        store=collection.store,
        device=device,
        make_trainer=partial(
            build, cfg.trainer, "trainer", accelerator="gpu" if device.kind == "cuda" else "cpu"
        ),
        vram=cfg.vram.profile,
        resident=cfg.vram.resident,
        workers=decoding_workers(cfg.workers),
        max_failures=cfg.max_failures,
        retry_quarantined=cfg.retry_quarantined,
        overwrite=cfg.overwrite,
        adopt=cfg.adopt,
        limit=cfg.limit,
        dry_run=cfg.dry_run,
        progress_every=cfg.progress_every,
        configuration=OmegaConf.to_yaml(cfg, resolve=True),
        rank=rank,
        console=console,
        began=began,
    )
    if cfg.flip and not any("latents_flip" in contract.outputs for contract in job.contracts.values()):
        raise UsageError(f"flip=true: {', '.join(job.contracts)} stores no mirrored latents, sd_vae does")
    return job


@dataclasses.dataclass(kw_only=True)
class EncodingJob:
    """Everything that one run needs, built and checked; no network is loaded yet.

    Attributes:
        dataset: its name, for people.
        captions: writes missing captions first; None where nobody was chosen to.
        make_trainer: Lightning's ``Trainer`` with the given callbacks.
        vram: the profile, for people.
        resident: ``one`` encoder in device memory at a time, or ``all``.
        workers: processes that decode pictures.
        max_failures: share of the collection that may fail.
        retry_quarantined: try pictures that failed before again.
        overwrite: encode everything again, over any contract.
        adopt: take arrays of unrecorded making for the encoders' own.
        limit: of the source, which has no more pictures; None where it is whole.
        dry_run: stop after the plan, with nothing touched.
        configuration: YAML, noted beside the output.
        rank: this process's number among those of one run; only process 0 plans aloud, locks and sums up.
        began: of `time.monotonic`, when the command began.

    Raises:
        UsageError, LatentkitError: the output holds other numbers, or options exclude each other.
    """

    dataset: str
    source: Source
    captions: CaptionJob | None
    encoders: list[Encoder]
    store: Store
    device: Device
    make_trainer: Callable[..., pl.Trainer]
    vram: str
    resident: str
    workers: int
    max_failures: float
    retry_quarantined: bool
    overwrite: bool
    adopt: bool
    limit: int | None
    dry_run: bool
    progress_every: int | None
    configuration: str
    rank: int
    console: Console
    began: float

    def __post_init__(self) -> None:
        self.root = Path(self.store.root)
        decoder = Pillow(self.source.orient, self.source.strict)
        self.contracts: dict[str, Contract] = {
            encoder.name: encoder.contract(decoder) for encoder in self.encoders
        }
        if self.adopt and (self.overwrite or self.limit is not None or not self.store.per_picture):
            raise UsageError("adopt=true goes with store=npy or store=crawlr, and without overwrite or limit")
        if not self.overwrite:
            self.store.check(self.contracts, adopt=self.adopt)
        if self.limit is not None and (self.overwrite or not self.store.per_picture):
            self._check_limit(self.limit)

    def run(self) -> Outcome:
        """Plan, encode, summarise. What is published stays so, whatever happens.

        The exit status is 0 in all processes but the first: their launcher would take anything else for a
        crash and kill the first before it has finished.

        Raises:
            LatentkitError: one line.
        """
        plan = self._prepare()
        self._announce(plan)
        if self.dry_run:
            self.console.print("dry_run=true: nothing was touched")
            return Outcome(DONE, {"status": "dry run", "encoders": [part.counts() for part in plan.encoders]})
        result = self._encode(plan)
        return Outcome(DONE, {}) if self.rank > 0 else self._summarise(plan, result)

    def _check_limit(self, limit: int) -> None:
        """What is there and beyond the limit would go: from shards, which are whole, or by overwriting."""
        for encoder in self.contracts:
            if (there := self.store.counts(encoder).items) > limit:
                raise UsageError(
                    f"limit={limit}: {self.root} already holds {there:,} pictures of {encoder}, and the "
                    "others would be taken away; choose another output_dir"
                )

    def _prepare(self) -> Plan:
        """What is left to do. Makes the output folder ready for it, unless this is a dry run."""
        if self.adopt and self.rank == 0:
            for encoder in self.encoders:
                asked = self.contracts[encoder.name]
                adopt(npy_store(self.store), encoder, asked, self.source, self.console, dry_run=self.dry_run)
        if not self.dry_run:
            self.store.open(self.contracts, self.rank, overwrite=self.overwrite)
        plan = self._plan(overwrite=self.overwrite)
        check_room(self.root, plan.bytes)
        return plan

    def _plan(self, *, overwrite: bool) -> Plan:
        ledger = Quarantine.read(self.root)
        retry = self.retry_quarantined or self.overwrite
        quarantined = {
            name: {key: held.source for key, held in ledger.held(name).items()}
            for name in (() if retry else self.contracts)
        }
        return make_plan(
            self.source, self.encoders, self.contracts, self.store, quarantined, overwrite=overwrite
        )

    def _announce(self, plan: Plan) -> None:
        """Say what will be done, before anything is loaded."""
        say = self.console.print
        random = [name for name, contract in self.contracts.items() if not contract.pretrained]
        if random:
            say(f"RANDOM WEIGHTS in {', '.join(random)}: the shapes are real, the numbers mean nothing")
        pictures = readable_count(len(self.source), "picture")
        say(f"{self.dataset}: {pictures} to {self.root}, on {self.device.kind}, vram={self.vram}")
        rates = read_rates(self.root)
        for part in plan.encoders:
            words = [f"{part.todo:,} to encode (at most {readable_bytes(part.bytes)})"] * bool(part.todo)
            words += [f"{part.done:,} done"] * bool(part.done)
            words += [f"{part.held:,} in quarantine"] * bool(part.held)
            words += [f"{part.captionless:,} without a caption"] * bool(part.captionless)
            if part.todo and (rate := rates.get(part.encoder)):
                words.append(f"about {readable_seconds(part.todo / rate)} at the last run's rate")
            say(f"  {part.encoder}: {', '.join(words)}")
        if not plan.todo and not self.dry_run:
            say("nothing to do")

    def _encode(self, plan: Plan) -> RunResult | None:
        """Work the plan off; None when it is empty."""
        if self.rank == 0:
            publish_json(self.root / ".latentkit" / "run.json", provenance())
            text = self.configuration.encode()
            publish(self.root / ".latentkit" / "config.yaml", lambda file: file.write(text))
        if not plan.todo:
            if self.rank == 0:
                for part in plan.encoders:
                    self.store.begin(part.encoder, part.units, self.source)
                self.store.finish(self.source, complete=True)
            return None
        from latentkit.prediction.run import run_plan

        quiet_libraries()
        try:
            result = run_plan(
                plan,
                self.source,
                self.encoders,
                self.store,
                self.make_trainer,
                resident=self.resident,
                max_failures=self.max_failures,
                workers=self.workers,
                console=self.console,
                progress_every=self.progress_every,
            )
        except LatentkitError:
            if self.rank == 0:
                self.store.finish(self.source, complete=False)
            raise
        if self.rank == 0:
            self.store.finish(self.source, complete=not result.interrupted)
            publish_rates(self.root, result.rates)
        return result

    def _summarise(self, plan: Plan, result: RunResult | None) -> Outcome:
        """Write summary.json and preview.png, print the table."""
        interrupted = result is not None and result.interrupted
        summary = run_summary(
            plan,
            result,
            self._plan(overwrite=False) if interrupted else None,
            dataset=self.dataset,
            source=self.source,
            encoders=self.encoders,
            contracts=self.contracts,
            store=self.store,
            held_for=[*self.contracts, *([CAPTIONING] if self.captions else [])],
            device=self.device.kind,
            seconds=time.monotonic() - self.began,
        )
        content = summary.to_dict()
        publish_json(self.root / "summary.json", content)
        if result is not None or not (self.root / "preview.png").exists():
            self._publish_preview(random=summary.random)
        print_summary(summary, self.console)
        if interrupted:
            left = sum(encoder.left for encoder in summary.encoders)
            self.console.print(f"interrupted with {left:,} left; the same command goes on from here")
            return Outcome(INTERRUPTED, content)
        return Outcome(QUARANTINED if summary.quarantine else DONE, content)

    def _publish_preview(self, *, random: bool) -> None:
        hashes = ", ".join(f"{name} {contract.sha256[:12]}" for name, contract in self.contracts.items())
        note = f"{self.dataset}: {len(self.source):,} pictures.  contracts: {hashes}"
        note += "  RANDOM WEIGHTS: the numbers mean nothing" * random
        opened = cache(lambda encoder: open_output(self.store.folder(encoder), partial=True))
        sheet = preview_sheet(self.source, self.encoders, lambda name, key: opened(name).read(key), note)
        if sheet is not None:
            publish(self.root / "preview.png", lambda file: file.write(sheet))
