"""One encoding job: built from a configuration, planned, run and summarised."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from latentkit.encoders import Contract, Encoder
from latentkit.errors import LatentkitError, UsageError
from latentkit.jobs.captioning import CAPTIONING, CaptionJob, build_caption_job
from latentkit.jobs.collection import Collection
from latentkit.jobs.config import build
from latentkit.jobs.hardware import check_launch, fill_vram
from latentkit.pixels import Pillow
from latentkit.prediction.plan import EncoderPlan, Plan, check_room, make_plan
from latentkit.report.account import run_summary
from latentkit.report.preview import contact_sheet
from latentkit.report.rates import publish_rates, read_rates
from latentkit.report.summary import Summary, print_summary
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
from latentkit.sources import Source
from latentkit.stores import OutputLock, Store
from latentkit.stores.output import open_output
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.storage import publish, publish_json
from latentkit.upkeep.adopt import adopt

if TYPE_CHECKING:
    from latentkit.prediction.run import RunResult


def encode(cfg: DictConfig) -> Outcome:
    """Caption, plan, encode, summarise; what summary.json says.

    Raises:
        UsageError, LatentkitError: one line.
    """
    job = EncodingJob.from_config(cfg)
    with job.output_lock():
        if not job.caption():
            return Outcome(INTERRUPTED, {})
        plan = job.plan()
        job.announce(plan)
        if job.dry_run:
            return Outcome(DONE, {"status": "dry run", "encoders": [_counts(part) for part in plan.encoders]})
        return job.summarise(plan, job.run(plan))


@dataclasses.dataclass
class EncodingJob:
    """Everything that one run needs, built and checked; no network is loaded yet.

    Attributes:
        captions: writes missing captions first; None where nobody was chosen to.
        rank: this process's number among those of one run; only process 0 plans aloud, locks and sums up.
    """

    dataset: str
    source: Source
    captions: CaptionJob | None
    encoders: list[Encoder]
    store: Store
    contracts: dict[str, Contract]
    cfg: DictConfig
    device: Device
    rank: int
    console: Console
    began: float

    @classmethod
    def from_config(cls, cfg: DictConfig) -> EncodingJob:
        """Build source, encoders, store and contracts; cheap checks first.

        Raises:
            UsageError, LatentkitError: one line each.
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
        source, store = collection.first(cfg.limit), collection.store
        several = cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1
        rank = process_rank(cfg.trainer.devices) if several else 0
        console = Console(stderr=True, quiet=rank > 0)
        captions = build_caption_job(cfg, collection, console)
        if captions is not None and several and (launched_externally() or cfg.trainer.num_nodes != 1):
            raise UsageError("only one process captions: run latentkit.caption first, then this without it")
        device = find_device(cfg.trainer.accelerator)
        fill_vram(cfg.vram, device)
        built = (build(cfg.encoders[name], f"encoders.{name}", name=str(name)) for name in cfg.encoders)
        encoders = [encoder.fitted(device.kind) for encoder in built]
        decoder = Pillow(source.orient, source.strict)
        contracts = {encoder.name: encoder.contract(decoder) for encoder in encoders}
        if cfg.adopt and (cfg.overwrite or cfg.limit is not None or not store.per_picture):
            raise UsageError("adopt=true goes with store=npy or store=crawlr, and without overwrite or limit")
        if cfg.flip and not any("latents_flip" in contract.outputs for contract in contracts.values()):
            raise UsageError(f"flip=true: {', '.join(contracts)} stores no mirrored latents, sd_vae does")
        if not cfg.overwrite:
            store.check(contracts, adopt=cfg.adopt)
        if cfg.limit is not None and (cfg.overwrite or not store.per_picture):
            _check_limit(store, contracts, cfg.limit)
        check_launch(cfg.trainer)
        return cls(
            collection.name, source, captions, encoders, store, contracts, cfg, device, rank, console, began
        )

    @property
    def dry_run(self) -> bool:
        """Whether to stop after the plan, with nothing touched."""
        return bool(self.cfg.dry_run)

    def output_lock(self) -> AbstractContextManager[object]:
        """One writer at a time for an output folder; the source reads what another wrote from now on."""
        return nullcontext() if self.rank > 0 or self.dry_run else OutputLock(self.cfg.output_dir)

    def caption(self) -> bool:
        """Write the captions that are missing, where a captioner was chosen; False when interrupted."""
        return self.captions is None or self.rank > 0 or self.captions.fill()

    def plan(self) -> Plan:
        """What is left to do. Makes the output folder ready for it, unless this is a dry run."""
        if self.cfg.adopt and self.rank == 0:
            for encoder in self.encoders:
                asked = self.contracts[encoder.name]
                adopt(self.store.npy(), encoder, asked, self.source, self.console, dry_run=self.dry_run)
        if not self.dry_run:
            self.store.open(self.contracts, self.rank, overwrite=self.cfg.overwrite)
        plan = self._plan(overwrite=self.cfg.overwrite)
        check_room(Path(self.cfg.output_dir), plan.bytes)
        return plan

    def _plan(self, *, overwrite: bool) -> Plan:
        ledger = Quarantine.read(self.cfg.output_dir)
        retry = self.cfg.retry_quarantined or self.cfg.overwrite
        quarantined = {
            name: {key: held.fingerprint for key, held in ledger.held(name).items()}
            for name in (() if retry else self.contracts)
        }
        return make_plan(
            self.source, self.encoders, self.contracts, self.store, quarantined, overwrite=overwrite
        )

    def announce(self, plan: Plan) -> None:
        """Say what will be done, before anything is loaded."""
        say = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        random = [encoder.name for encoder in self.encoders if not self.contracts[encoder.name].pretrained]
        if random:
            say(f"RANDOM WEIGHTS in {', '.join(random)}: the shapes are real, the numbers mean nothing")
        say(
            f"{self.dataset}: {readable_count(len(self.source), 'picture')} to {self.cfg.output_dir}, "
            f"on {self.device.kind}, vram={self.cfg.vram.profile}"
        )
        rates = read_rates(self.cfg.output_dir)
        for part in plan.encoders:
            words = [f"{part.todo:,} to encode (at most {readable_bytes(part.bytes)})"] * bool(part.todo)
            words += [f"{part.done:,} done"] * bool(part.done)
            words += [f"{part.held:,} in quarantine"] * bool(part.held)
            words += [f"{part.captionless:,} without a caption"] * bool(part.captionless)
            if part.todo and (rate := rates.get(part.encoder)):
                words.append(f"about {readable_seconds(part.todo / rate)} at the last run's rate")
            say(f"  {part.encoder}: {', '.join(words)}")
        if self.dry_run:
            say("dry_run=true: nothing was touched")
        elif not plan.todo:
            say("nothing to do")

    def run(self, plan: Plan) -> RunResult | None:
        """Work the plan off; None when it is empty. What is published stays so, whatever happens."""
        if self.rank == 0:
            self._note_run()
        if not plan.todo:
            if self.rank == 0:
                for part in plan.encoders:
                    self.store.begin(part.encoder, part.units, self.source)
                self.store.finish(self.source, complete=True)
            return None
        from latentkit.prediction.run import run_plan

        quiet_libraries()
        make_trainer = partial(
            build, self.cfg.trainer, "trainer", accelerator="gpu" if self.device.kind == "cuda" else "cpu"
        )
        try:
            result = run_plan(
                plan,
                self.source,
                self.encoders,
                self.store,
                make_trainer,
                resident=self.cfg.vram.resident,
                max_failures=self.cfg.max_failures,
                workers=decoding_workers(self.cfg.workers),
                console=self.console,
                progress_every=self.cfg.progress_every,
            )
        except LatentkitError:
            if self.rank == 0:
                self.store.finish(self.source, complete=False)
            raise
        if self.rank == 0:
            self.store.finish(self.source, complete=not result.interrupted)
            publish_rates(self.cfg.output_dir, result.rates)
        return result

    def summarise(self, plan: Plan, result: RunResult | None) -> Outcome:
        """Write summary.json and preview.png, print the table.

        The exit status is 0 in all processes but the first: their launcher would take anything else for a
        crash and kill the first before it has finished.
        """
        if self.rank > 0:
            return Outcome(DONE, {})
        interrupted = result is not None and result.interrupted
        summary = self._summary(plan, result)
        root = Path(self.cfg.output_dir)
        content = summary.to_dict()
        publish_json(root / "summary.json", content)
        if result is not None or not (root / "preview.png").exists():
            self._publish_preview(root / "preview.png", random=summary.random)
        print_summary(summary, self.console)
        if interrupted:
            left = sum(encoder.left for encoder in summary.encoders)
            self.console.print(f"interrupted with {left:,} left; the same command goes on from here")
        if summary.quarantine and not interrupted:
            return Outcome(QUARANTINED, content)
        return Outcome(INTERRUPTED if interrupted else DONE, content)

    def _note_run(self) -> None:
        notes = Path(self.cfg.output_dir, ".latentkit")
        publish_json(notes / "run.json", provenance())
        resolved = OmegaConf.to_yaml(self.cfg, resolve=True)
        publish(notes / "config.yaml", lambda file: file.write(resolved.encode()))

    def _summary(self, plan: Plan, result: RunResult | None) -> Summary:
        return run_summary(
            plan,
            result,
            self._plan(overwrite=False) if result is not None and result.interrupted else None,
            dataset=self.dataset,
            source=self.source,
            encoders=self.encoders,
            contracts=self.contracts,
            store=self.store,
            held_for=[*self.contracts, *([CAPTIONING] if self.captions else [])],
            device=self.device.kind,
            seconds=time.monotonic() - self.began,
        )

    def _publish_preview(self, path: Path, *, random: bool) -> None:
        hashes = ", ".join(f"{name} {contract.sha256[:12]}" for name, contract in self.contracts.items())
        note = f"{self.dataset}: {len(self.source):,} pictures.  contracts: {hashes}"
        note += "  RANDOM WEIGHTS: the numbers mean nothing" * random
        opened = cache(lambda encoder: open_output(self.store.folder(encoder), partial=True))
        sheet = contact_sheet(self.source, self.encoders, lambda name, key: opened(name).read(key), note)
        if sheet is not None:
            publish(path, lambda file: file.write(sheet))


def _counts(part: EncoderPlan) -> dict[str, Any]:
    return {
        "encoder": part.encoder,
        "todo": part.todo,
        "skipped": part.done,
        "quarantined": part.held,
        "captionless": part.captionless,
        "bytes": part.bytes,
    }


def _check_limit(store: Store, encoders: Iterable[str], limit: int) -> None:
    """What is there and beyond the limit would go: from shards, which are whole, or by overwriting."""
    for encoder in encoders:
        if (there := store.counts(encoder).items) > limit:
            raise UsageError(
                f"limit={limit}: {store.root} already holds {there:,} pictures of {encoder}, and the "
                "others would be taken away; choose another output_dir"
            )
