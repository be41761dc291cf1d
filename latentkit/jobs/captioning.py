"""One captioning job: built from a configuration, planned, run and summed up."""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from PIL.Image import Image
from rich.console import Console

from latentkit.captioning import Captioner
from latentkit.errors import UsageError
from latentkit.jobs.collection import Collection
from latentkit.jobs.config import build
from latentkit.pixels import DecodeError, Pillow
from latentkit.prediction.plan import Comparison, still_fails
from latentkit.prediction.results import Failure, FailureLimit
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.interrupt import Interrupts
from latentkit.runtime.progress import ProgressReport
from latentkit.runtime.readable import readable_count
from latentkit.runtime.terminal import open_console, print_table, quiet_libraries
from latentkit.sources import Fingerprint, SourceError, Written
from latentkit.stores import OutputLock
from latentkit.stores.captions import append_caption, fold_captions
from latentkit.stores.quarantine import Quarantine, quarantine, quarantine_ledger, release
from latentkit.stores.storage import remove_temporaries
from latentkit.stores.store import LEDGERS

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
    job = CaptionJob(cfg, Collection(cfg), console, overwrite=cfg.overwrite)
    with nullcontext() if cfg.dry_run else OutputLock(cfg.output_dir):
        plan = job.plan()
        if not cfg.dry_run:
            return job.run(plan)
    console.print("dry_run=true: nothing was touched")
    return Outcome(DONE, plan.counts())


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


class CaptionJob:
    """Captions for the images of a collection that have none, by the captioner that was chosen.

    No model is loaded yet. Whatever writes needs the output's `OutputLock`.

    Args:
        cfg: of a verb that captions.
        collection: takes in the new captions.
        console: for people.
        overwrite: replace captions written by another model or for another prompt.

    Raises:
        UsageError: one line.
    """

    def __init__(
        self, cfg: DictConfig, collection: Collection, console: Console, *, overwrite: bool = False
    ) -> None:
        self._captioner: Captioner = build(cfg.caption, "caption")
        self._cfg, self._collection, self._console = cfg, collection, console
        self._source, self._root = collection.first(cfg.limit), Path(cfg.output_dir)
        self._overwrite = overwrite

    def fill(self) -> bool:
        """Plan, and unless this is a dry run write what is missing; False when it was interrupted."""
        plan = self.plan()
        if self._cfg.dry_run or not (plan.todo or plan.settled):
            return True
        return self.run(plan).status != INTERRUPTED

    def plan(self) -> CaptionPlan:
        """Compare the source with what is written, and announce what is left. Reads only."""
        plan, source, captions = CaptionPlan(), self._source, self._collection.source.captions
        ledger, compare = Quarantine.read(self._root).held(CAPTIONING), Comparison(source)
        asked = (self._captioner.name, self._captioner.prompt_sha256)
        retry = self._cfg.retry_quarantined or self._overwrite
        for index, item in enumerate(map(source.__getitem__, range(len(source)))):
            held, written = ledger.get(item.key), captions.get(item.key)
            own = captions.own(item.key, item.caption) is not None
            stays = not own and written is not None and compare.picture(index, written.picture)
            other = stays and written is not None and asked != (written.model, written.prompt_sha256)
            if own or (stays and not (other and self._overwrite)):
                plan.own += own
                plan.skipped += stays
                plan.others += other
                if held:
                    plan.settled.add(item.key)
            elif held and not retry and still_fails(source, index, held.source, compare.picture):
                plan.held.add(item.key)
            else:
                plan.todo.append(index)
        words = [f"{len(plan.todo):,} to write by {self._captioner.name}"] * bool(plan.todo)
        words += [f"{plan.own:,} of the pictures' own"] * bool(plan.own)
        words += [f"{plan.skipped:,} written before"] * bool(plan.skipped)
        words += [f"{len(plan.held):,} in quarantine"] * bool(plan.held)
        pictures = readable_count(len(source), "picture")
        self._console.print(f"{self._collection.name}: captions of {pictures}")
        self._console.print(f"  {', '.join(words)}")
        if plan.others:
            self._console.print(
                f"  {plan.others:,} of them by another model or prompt: "
                "latentkit.caption overwrite=true replaces them"
            )
        return plan

    def run(self, plan: CaptionPlan) -> Outcome:
        """Write what the plan says is left, and sum up. What is written stays so, whatever happens.

        Raises:
            TooManyFailuresError, LatentkitError: one line each.
        """
        path = self._collection.source.path
        remove_temporaries(self._root, below=False)
        remove_temporaries(self._root / LEDGERS, below=True)
        fold_captions(path)
        release(self._root, CAPTIONING, sorted(plan.settled))
        try:
            if plan.todo:
                self._write(plan)
        finally:
            quarantine_ledger(self._root).fold()
            fold_captions(path)
        return self._summarise(plan)

    def _write(self, plan: CaptionPlan) -> None:
        """Every caption is on the disk as soon as it is there."""
        source, captioner, captioned = self._source, self._captioner, self._collection.source
        held = Quarantine.read(self._root).held(CAPTIONING)
        note = FailureLimit(partial(quarantine, self._root), len(source), self._cfg.max_failures, plan.held)
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
            ProgressReport(title, len(plan.todo), self._console) as progress,
        ):
            for answer in describe(pictures()):
                key, fingerprint = source[answer.number].key, asked.pop(answer.number)
                if answer.reason:
                    fail(answer.number, "caption", answer.reason, fingerprint)
                else:
                    if key in held:
                        release(self._root, CAPTIONING, [key])
                    written = Written(answer.caption, captioner.name, captioner.prompt_sha256, fingerprint)
                    append_caption(captioned.path, key, written)
                    captioned.captions.add(key, written)
                    plan.written += 1
                progress.show(plan.written + plan.failed)

    def _summarise(self, plan: CaptionPlan) -> Outcome:
        """Print the table."""
        counts = plan.counts()
        bad, left = counts["quarantined"], counts["left"]
        state = "interrupted" if plan.interrupted else "done"
        headings = ["captions by", "written", "skipped", "own", "bad", *["left"] * bool(left)]
        row = [self._captioner.name, *(f"{count:,}" for count in counts.values())][: len(headings)]
        print_table(self._console, f"{self._collection.name}: {state}", headings, [row])
        if len(self._collection.source.captions):
            self._console.print(f"in {self._collection.source.path}")
        if bad:
            self._console.print(
                f"quarantined: {bad:,} in quarantine.jsonl (retry_quarantined=true tries them again)"
            )
        if plan.interrupted:
            self._console.print(f"interrupted with {left:,} left; the same command goes on from here")
            return Outcome(INTERRUPTED, counts)
        return Outcome(QUARANTINED if bad else DONE, counts)
