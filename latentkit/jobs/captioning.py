"""One captioning job: built from a configuration, planned, run and summed up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console

from latentkit.captioning import Captioner
from latentkit.errors import UsageError
from latentkit.jobs.collection import Collection
from latentkit.jobs.config import build
from latentkit.pixels import DecodeError, Pillow
from latentkit.prediction.failures import FailureLimit
from latentkit.prediction.plan import Comparison, still_fails
from latentkit.prediction.results import Failure
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.runtime.quiet import quiet_libraries
from latentkit.runtime.readable import readable_count
from latentkit.runtime.terminal import open_console, print_table
from latentkit.sources import Captioned, Fingerprint, Source, SourceError, Written
from latentkit.stores import OutputLock
from latentkit.stores.captions import append_caption, fold_captions
from latentkit.stores.quarantine import Quarantine, quarantine, quarantine_ledger, release
from latentkit.stores.storage import remove_temporaries
from latentkit.stores.store import LEDGERS

if TYPE_CHECKING:
    from PIL.Image import Image

CAPTIONING = "caption"
"""What the quarantine ledger calls captioning among the encoders."""


def caption(cfg: DictConfig) -> Outcome:
    """Caption a collection; the counts, in pictures.

    Raises:
        UsageError, LatentkitError: one line each.
    """
    if not cfg.caption:
        raise UsageError(
            "no captioner: give caption=openai (a server; by default Ollama on this machine) or "
            "caption=transformers (a model loaded here; by default one of 55 GB)"
        )
    quiet_libraries()
    console = open_console()
    job = build_caption_job(cfg, Collection.from_config(cfg), console, overwrite=cfg.overwrite)
    with nullcontext() if job.dry_run else OutputLock(job.root):
        plan = job.plan()
        if not job.dry_run:
            return job.run(plan)
    job.console.print("dry_run=true: nothing was touched")
    return Outcome(DONE, plan.counts())


def build_caption_job(
    cfg: DictConfig, collection: Collection, console: Console, *, overwrite: bool = False
) -> CaptionJob:
    """A job for the pictures of a collection, by the captioner that was chosen. No model is loaded yet.

    Raises:
        UsageError: one line.
    """
    captioner: Captioner = build(cfg.caption, "caption")
    if not 0 <= cfg.max_failures <= 1:
        raise UsageError(f"max_failures={cfg.max_failures}: a share, from 0 to 1")
    return CaptionJob(
        dataset=collection.name,
        source=collection.first(cfg.limit),
        captioned=collection.source,
        captioner=captioner,
        root=Path(cfg.output_dir),
        max_failures=cfg.max_failures,
        retry_quarantined=cfg.retry_quarantined or overwrite,
        overwrite=overwrite,
        dry_run=cfg.dry_run,
        console=console,
    )


@dataclass
class CaptionPlan:
    """What is to be captioned, and what has been, in pictures.

    Attributes:
        todo: source indices, ascending: without a caption, or changed since it was written.
        own: with a caption of their own.
        skipped: with one that a model wrote before, which stays.
        others: of these, by another model or another prompt.
        held: keys in quarantine.
        settled: keys in quarantine that have got a caption in another way.
        written, failed: of `todo`, by this run.
        interrupted: whether the run was asked to stop before its end.
    """

    todo: list[int] = field(default_factory=list)
    own: int = 0
    skipped: int = 0
    others: int = 0
    held: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    written: int = 0
    failed: int = 0
    interrupted: bool = False

    def counts(self) -> dict[str, int]:
        """What is so now, in pictures."""
        return {
            "written": self.written,
            "skipped": self.skipped,
            "own": self.own,
            "quarantined": len(self.held) + self.failed,
            "left": len(self.todo) - self.written - self.failed,
        }


@dataclass(frozen=True, kw_only=True)
class CaptionJob:
    """Captions for the pictures of a source that have none.

    Attributes:
        dataset: its name, for people.
        source: the pictures.
        captioned: the source with the captions written so far; takes in the new ones.
        captioner: writes them.
        root: the output folder, whose `OutputLock` is held wherever something is written.
        max_failures: share of the collection that may fail.
        retry_quarantined: try pictures that failed before again.
        overwrite: replace captions written by another model or for another prompt.
        dry_run: whether only the plan is asked for.
        console: for people.
    """

    dataset: str
    source: Source
    captioned: Captioned
    captioner: Captioner
    root: Path
    max_failures: float
    retry_quarantined: bool
    overwrite: bool
    dry_run: bool
    console: Console

    def fill(self) -> bool:
        """Plan, and unless this is a dry run write what is missing; False when it was interrupted."""
        plan = self.plan()
        if self.dry_run or not (plan.todo or plan.settled):
            return True
        return self.run(plan).status != INTERRUPTED

    def plan(self) -> CaptionPlan:
        """Compare the source with what is written, and announce what is left. Reads only."""
        plan, captions, compare = CaptionPlan(), self.captioned.captions, Comparison(self.source)
        ledger = Quarantine.read(self.root).held(CAPTIONING)
        asked = (self.captioner.name, self.captioner.prompt_sha256)
        for index in range(len(self.source)):
            item = self.source[index]
            held, written = ledger.get(item.key), captions.get(item.key)
            own = captions.own(item.key, item.caption) is not None
            stays = not own and written is not None and compare.picture(index, written.picture)
            other = stays and written is not None and asked != (written.model, written.prompt_sha256)
            if own or (stays and not (other and self.overwrite)):
                plan.own += own
                plan.skipped += stays
                plan.others += other
                if held:
                    plan.settled.add(item.key)
            elif (
                held
                and not self.retry_quarantined
                and still_fails(self.source, index, held.source, compare.picture)
            ):
                plan.held.add(item.key)
            else:
                plan.todo.append(index)
        words = [f"{len(plan.todo):,} to write by {self.captioner.name}"] * bool(plan.todo)
        words += [f"{plan.own:,} of the pictures' own"] * bool(plan.own)
        words += [f"{plan.skipped:,} written before"] * bool(plan.skipped)
        words += [f"{len(plan.held):,} in quarantine"] * bool(plan.held)
        self.console.print(f"{self.dataset}: captions of {readable_count(len(self.source), 'picture')}")
        self.console.print(f"  {', '.join(words)}")
        if plan.others:
            self.console.print(
                f"  {plan.others:,} of them by another model or prompt: "
                "latentkit.caption overwrite=true replaces them"
            )
        return plan

    def run(self, plan: CaptionPlan) -> Outcome:
        """Write what the plan says is left, and sum up. What is written stays so, whatever happens.

        Raises:
            TooManyFailuresError, LatentkitError: one line each.
        """
        remove_temporaries(self.root, below=False)
        remove_temporaries(self.root / LEDGERS, below=True)
        fold_captions(self.captioned.path)
        release(self.root, CAPTIONING, sorted(plan.settled))
        try:
            if plan.todo:
                self._write(plan)
        finally:
            quarantine_ledger(self.root).fold()
            fold_captions(self.captioned.path)
        return self._summarise(plan)

    def _write(self, plan: CaptionPlan) -> None:
        """Every caption is on the disk as soon as it is there."""
        source, captioner = self.source, self.captioner
        held = Quarantine.read(self.root).held(CAPTIONING)
        note = FailureLimit(partial(quarantine, self.root), len(source), self.max_failures, plan.held)
        asked: dict[int, Fingerprint] = {}

        def fail(index: int, stage: str, reason: str, fingerprint: Fingerprint | None) -> None:
            plan.failed += 1
            note(Failure(index, source[index].key, stage, reason, (CAPTIONING,), fingerprint))

        def pictures() -> Iterator[tuple[int, Image]]:
            for index in plan.todo:
                if plan.interrupted:
                    return
                fingerprint = None
                try:
                    data, stat = source.read(index)
                    fingerprint = Fingerprint(hashlib.sha256(data).hexdigest(), stat)
                    image = Pillow(source.orient, source.strict)(data).image
                except SourceError as error:
                    fail(index, "read", str(error), fingerprint)
                except (DecodeError, MemoryError) as error:
                    fail(index, "decode", str(error) or type(error).__name__, fingerprint)
                else:
                    asked[index] = fingerprint
                    yield index, image

        def stop() -> None:
            plan.interrupted = True

        title = f"captions by {captioner.name}"
        with (
            captioner.open() as describe,
            Interrupts(stop),
            ProgressReport(title, len(plan.todo), self.console) as progress,
        ):
            for answer in describe(pictures()):
                key, fingerprint = source[answer.number].key, asked.pop(answer.number)
                if answer.reason:
                    fail(answer.number, "caption", answer.reason, fingerprint)
                else:
                    if key in held:
                        release(self.root, CAPTIONING, [key])
                    written = Written(answer.caption, captioner.name, captioner.prompt_sha256, fingerprint)
                    append_caption(self.captioned.path, key, written)
                    self.captioned.captions.add(key, written)
                    plan.written += 1
                progress.show(plan.written + plan.failed)

    def _summarise(self, plan: CaptionPlan) -> Outcome:
        """Print the table."""
        counts = plan.counts()
        bad, left = counts["quarantined"], counts["left"]
        state = "interrupted" if plan.interrupted else "done"
        headings = ["captions by", "written", "skipped", "own", "bad", *["left"] * bool(left)]
        row = [self.captioner.name, *(f"{count:,}" for count in counts.values())][: len(headings)]
        print_table(self.console, f"{self.dataset}: {state}", headings, [row])
        if len(self.captioned.captions):
            self.console.print(f"in {self.captioned.path}")
        if bad:
            self.console.print(
                f"quarantined: {bad:,} in quarantine.jsonl (retry_quarantined=true tries them again)"
            )
        if plan.interrupted:
            self.console.print(f"interrupted with {left:,} left; the same command goes on from here")
            return Outcome(INTERRUPTED, counts)
        return Outcome(QUARANTINED if bad else DONE, counts)
