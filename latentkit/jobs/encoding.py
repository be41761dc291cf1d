"""One encoding job: built from a configuration, planned, run and summarised."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from latentkit.encoders import Encoder
from latentkit.errors import LatentkitError, UsageError
from latentkit.jobs.captioning import CAPTIONING, CaptionJob
from latentkit.jobs.collection import Collection
from latentkit.jobs.config import build
from latentkit.jobs.hardware import Process
from latentkit.pixels import Pillow
from latentkit.prediction.plan import Plan, check_room, make_plan
from latentkit.report.sheets import preview_sheet
from latentkit.report.summary import print_summary, publish_rates, read_rates, run_summary
from latentkit.runtime.device import launched_externally
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.provenance import provenance
from latentkit.runtime.readable import readable_bytes, readable_count, readable_seconds
from latentkit.runtime.terminal import quiet_libraries
from latentkit.stores import OutputLock
from latentkit.stores.npy import npy_store
from latentkit.stores.open import open_output
from latentkit.stores.quarantine import Quarantine
from latentkit.stores.storage import publish_bytes, publish_json
from latentkit.upkeep.adopt import adopt

if TYPE_CHECKING:
    from latentkit.prediction.encoding import RunResult


def encode(cfg: DictConfig) -> Outcome:
    """Caption, plan, encode, summarise; what summary.json says.

    Raises:
        UsageError, LatentkitError: one line.
    """
    job = EncodingJob(cfg)
    with nullcontext() if job.process.rank > 0 or cfg.dry_run else OutputLock(job.root):
        if job.captions is not None and job.process.rank == 0 and not job.captions.fill():
            return Outcome(INTERRUPTED, {})
        return job.run()


class EncodingJob:
    """Everything that one run needs, built and checked; no network is loaded yet, and nothing is written.

    Args:
        cfg: of ``latentkit.encode``.

    Attributes:
        process: of several, only process 0 plans aloud, locks and sums up.
        source: the pictures, up to the limit.
        store, root: where the outputs go.
        captions: writes missing captions first; None where nobody was chosen to.
        encoders, contracts: what is encoded, and what its numbers will mean.

    Raises:
        UsageError, LatentkitError: one line: a mistake, or the output holds other numbers.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self._began = time.monotonic()
        if not cfg.encoders:
            raise UsageError("no encoder: give encoder=NAME")
        collection = Collection(cfg)
        self.cfg, self.dataset = cfg, collection.name
        self.source, self.store = collection.first(cfg.limit), collection.store
        self.root = Path(self.store.root)
        self.process = Process(cfg)
        self.console, self.device = self.process.console, self.process.device.kind
        self.captions = CaptionJob(cfg, collection, self.console) if cfg.caption else None
        if self.captions and self.process.several and (launched_externally() or cfg.trainer.num_nodes != 1):
            raise UsageError("only one process captions: run latentkit.caption first, then this without it")
        self.encoders: list[Encoder] = [
            build(cfg.encoders[name], f"encoders.{name}", name=str(name)).fitted(self.device)
            for name in cfg.encoders
        ]
        decoder = Pillow(self.source.orient, self.source.strict)
        self.contracts = {encoder.name: encoder.contract(decoder) for encoder in self.encoders}
        only_adds = self.store.per_picture and not cfg.overwrite
        if cfg.adopt and (not only_adds or cfg.limit is not None):
            raise UsageError("adopt=true goes with store=npy or store=crawlr, and without overwrite or limit")
        if not cfg.overwrite:
            self.store.check(self.contracts, adopt=cfg.adopt)
        if cfg.limit is not None and not only_adds:
            self._check_limit(cfg.limit)
        if cfg.flip and not any("latents_flip" in contract.outputs for contract in self.contracts.values()):
            names = ", ".join(self.contracts)
            raise UsageError(f"flip=true: {names} stores no mirrored latents, sd_vae does")

    def run(self) -> Outcome:
        """Plan, encode, summarise. What is published stays so, whatever happens.

        The exit status is 0 in all processes but the first: their launcher would take anything else for a
        crash and kill the first before it has finished.

        Raises:
            LatentkitError: one line.
        """
        plan = self._prepare()
        self._announce(plan)
        if self.cfg.dry_run:
            self.console.print("dry_run=true: nothing was touched")
            return Outcome(DONE, {"status": "dry run", "encoders": [part.counts() for part in plan.encoders]})
        result = self._encode(plan)
        return Outcome(DONE, {}) if self.process.rank > 0 else self._summarise(plan, result)

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
        if self.cfg.adopt and self.process.rank == 0:
            for encoder in self.encoders:
                asked = self.contracts[encoder.name]
                npy = npy_store(self.store)
                adopt(npy, encoder, asked, self.source, self.console, dry_run=self.cfg.dry_run)
        if not self.cfg.dry_run:
            self.store.open(self.contracts, self.process.rank, overwrite=self.cfg.overwrite)
        plan = self._plan(overwrite=self.cfg.overwrite)
        check_room(self.root, plan.bytes)
        return plan

    def _plan(self, *, overwrite: bool) -> Plan:
        ledger = Quarantine.read(self.root)
        retry = self.cfg.retry_quarantined or self.cfg.overwrite
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
        say(f"{self.dataset}: {pictures} to {self.root}, on {self.device}, vram={self.cfg.vram.profile}")
        rates = read_rates(self.root)
        for part in plan.encoders:
            words = [f"{part.todo:,} to encode (at most {readable_bytes(part.bytes)})"] * bool(part.todo)
            words += [f"{part.done:,} done"] * bool(part.done)
            words += [f"{len(part.quarantined):,} in quarantine"] * bool(part.quarantined)
            words += [f"{len(part.uncaptioned):,} without a caption"] * bool(part.uncaptioned)
            if part.todo and (rate := rates.get(part.encoder)):
                words.append(f"about {readable_seconds(part.todo / rate)} at the last run's rate")
            say(f"  {part.encoder}: {', '.join(words)}")
        if not plan.todo and not self.cfg.dry_run:
            say("nothing to do")

    def _encode(self, plan: Plan) -> RunResult | None:
        """Work the plan off; None when it is empty."""
        if self.process.rank == 0:
            publish_json(self.root / ".latentkit" / "run.json", provenance())
            text = OmegaConf.to_yaml(self.cfg, resolve=True)
            publish_bytes(self.root / ".latentkit" / "config.yaml", text.encode())
        if not plan.todo:
            if self.process.rank == 0:
                for part in plan.encoders:
                    self.store.begin(part.encoder, part.units, self.source)
                self.store.finish(self.source, complete=True)
            return None
        from latentkit.prediction.encoding import run_plan
        from latentkit.prediction.loop import Loop

        quiet_libraries()
        try:
            loop = Loop(
                self.process.make_trainer,
                advice="what is done is kept, the same command goes on from here",
                workers=self.process.workers,
                console=self.console,
                progress_every=self.cfg.progress_every,
            )
            result = run_plan(
                plan,
                self.source,
                self.encoders,
                self.store,
                loop,
                resident=self.cfg.vram.resident,
                max_failures=self.cfg.max_failures,
            )
        except LatentkitError:
            if self.process.rank == 0:
                self.store.finish(self.source, complete=False)
            raise
        if self.process.rank == 0:
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
            device=self.device,
            seconds=time.monotonic() - self._began,
        )
        publish_json(self.root / "summary.json", summary)
        if result is not None or not (self.root / "preview.png").exists():
            self._publish_preview()
        print_summary(summary, self.console)
        if interrupted:
            left = sum(encoder["left"] for encoder in summary["encoders"])
            self.console.print(f"interrupted with {left:,} left; the same command goes on from here")
            return Outcome(INTERRUPTED, summary)
        return Outcome(QUARANTINED if summary["quarantine"] else DONE, summary)

    def _publish_preview(self) -> None:
        hashes = ", ".join(f"{name} {contract.sha256[:12]}" for name, contract in self.contracts.items())
        note = f"{self.dataset}: {len(self.source):,} pictures.  contracts: {hashes}"
        random = not all(contract.pretrained for contract in self.contracts.values())
        note += "  RANDOM WEIGHTS: the numbers mean nothing" * random
        opened = cache(lambda encoder: open_output(self.store.folder(encoder), partial=True))
        sheet = preview_sheet(self.source, self.encoders, lambda name, key: opened(name).read(key), note)
        if sheet is not None:
            publish_bytes(self.root / "preview.png", sheet)
