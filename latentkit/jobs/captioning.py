"""One captioning job: built from a configuration, planned, run and summed up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from latentkit.captioning import Captioner
from latentkit.captioning.run import CAPTIONING, CaptionResult, CaptionRun
from latentkit.errors import UsageError
from latentkit.jobs.collection import Collection
from latentkit.jobs.config import build
from latentkit.prediction.failures import FailureLimit
from latentkit.prediction.plan import Comparison
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED, Outcome
from latentkit.runtime.quiet import quiet_libraries
from latentkit.runtime.readable import readable_count
from latentkit.sources import Captions, Fingerprint, Source
from latentkit.stores import OutputLock
from latentkit.stores.captions import fold_captions
from latentkit.stores.quarantine import Held, Quarantine, quarantine, quarantine_ledger, release
from latentkit.stores.storage import remove_temporaries
from latentkit.stores.store import LEDGERS


def caption(cfg: DictConfig) -> Outcome:
    """Plan, caption, sum up; the counts.

    Raises:
        UsageError, LatentkitError: one line.
    """
    job = CaptionJob.from_config(cfg)
    with nullcontext() if job.dry_run else OutputLock(job.root):
        if not job.dry_run:
            job = CaptionJob.from_config(cfg)  # with what another run wrote until now
        plan = job.plan()
        job.announce(plan)
        if job.dry_run:
            return Outcome(DONE, plan.counts())
        return job.summarise(plan, job.run(plan))


def build_captioner(cfg: DictConfig) -> Captioner | None:
    """The captioner that was chosen; None for ``caption=none``.

    Raises:
        UsageError: one line.
    """
    captioner: Captioner | None = build(cfg.caption, "caption") if cfg.caption else None
    return captioner


@dataclass
class CaptionPlan:
    """What is to be captioned, in pictures.

    Attributes:
        todo: source indices, ascending: without a caption, or changed since it was written.
        own: with a caption of their own.
        written: with one that a model wrote, which stays.
        others: of these, by another model or another prompt.
        held: keys in quarantine.
        settled: keys in quarantine that have come by a caption in another way.
    """

    todo: list[int] = field(default_factory=list)
    own: int = 0
    written: int = 0
    others: int = 0
    held: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)

    def counts(self, written: int = 0, failed: int = 0) -> dict[str, int]:
        """What is so once some of it is written and some has failed, in pictures."""
        return {
            "written": written,
            "skipped": self.written,
            "own": self.own,
            "quarantined": len(self.held) + failed,
            "left": len(self.todo) - written - failed,
        }


@dataclass(frozen=True, kw_only=True)
class CaptionJob:
    """Captions for the pictures of a source that have none.

    Attributes:
        dataset: its name, for people.
        source: the pictures.
        captions: those that were written before; takes in the new ones.
        captioner: writes them.
        root: the output folder, whose `OutputLock` is held wherever something is written.
        max_failures: share of the collection that may fail.
        retry_quarantined: try pictures that failed before again.
        overwrite: write those anew that another model wrote, or that another prompt asked for.
        dry_run: whether only the plan is asked for.
        console: for people.
    """

    dataset: str
    source: Source
    captions: Captions
    captioner: Captioner
    root: Path
    max_failures: float
    retry_quarantined: bool
    overwrite: bool
    dry_run: bool
    console: Console

    @classmethod
    def from_config(cls, cfg: DictConfig) -> CaptionJob:
        """Build everything; no model is loaded and no server asked yet.

        Raises:
            UsageError, LatentkitError: one line each.
        """
        quiet_libraries()
        captioner = build_captioner(cfg)
        if captioner is None:
            raise UsageError(
                "who is to write the captions? give caption=openai (a server; by default Ollama on this "
                "machine) or caption=transformers (a model loaded here; by default one of 55 GB)"
            )
        collection = Collection.from_config(cfg)
        source, console = collection.first(cfg.limit), Console(stderr=True)
        return cls._of(cfg, captioner, collection, source, console, overwrite=cfg.overwrite)

    @classmethod
    def before_encoding(
        cls, cfg: DictConfig, collection: Collection, source: Source, console: Console
    ) -> CaptionJob | None:
        """For the pictures that are to be encoded; None for ``caption=none``. Overwrites no caption.

        Raises:
            UsageError: one line.
        """
        captioner = build_captioner(cfg)
        if captioner is None:
            return None
        return cls._of(cfg, captioner, collection, source, console, overwrite=False)

    @classmethod
    def _of(
        cls,
        cfg: DictConfig,
        captioner: Captioner,
        collection: Collection,
        source: Source,
        console: Console,
        *,
        overwrite: bool,
    ) -> CaptionJob:
        return cls(
            dataset=collection.name,
            source=source,
            captions=collection.captions,
            captioner=captioner,
            root=Path(cfg.output_dir),
            max_failures=cfg.max_failures,
            retry_quarantined=cfg.retry_quarantined or overwrite,
            overwrite=overwrite,
            dry_run=cfg.dry_run,
            console=console,
        )

    def __post_init__(self) -> None:
        if not 0 <= self.max_failures <= 1:
            raise UsageError(f"max_failures={self.max_failures}: a share, from 0 to 1")

    def plan(self) -> CaptionPlan:
        """Hold the source against what is written. Reads only."""
        plan = CaptionPlan()
        unchanged = Comparison(self.source).picture
        ledger = Quarantine.read(self.root).held(CAPTIONING)
        asked = (self.captioner.name, self.captioner.prompt_sha256)
        for index in range(len(self.source)):
            item = self.source[index]
            written = self.captions.get(item.key)
            own = self.captions.own(item.key, item.caption) is not None
            stays = not own and written is not None and unchanged(index, written.picture)
            other = stays and written is not None and asked != (written.model, written.prompt_sha256)
            if own or (stays and not (other and self.overwrite)):
                plan.own += own
                plan.written += stays
                plan.others += other
                if item.key in ledger:
                    plan.settled.add(item.key)
            elif not self.retry_quarantined and self._is_held(index, ledger.get(item.key), unchanged):
                plan.held.add(item.key)
            else:
                plan.todo.append(index)
        return plan

    def _is_held(self, index: int, held: Held | None, unchanged: Callable[[int, Fingerprint], bool]) -> bool:
        """Whether a picture failed with these very bytes."""
        if held is None:
            return False
        failed = held.fingerprint
        return self.source.stat(index) is None if failed is None else unchanged(index, failed)

    def announce(self, plan: CaptionPlan) -> None:
        """Say what will be done, before anything is loaded."""
        self._announce(plan)
        if self.dry_run:
            self._say("dry_run=true: nothing was touched")

    def _announce(self, plan: CaptionPlan) -> None:
        words = [f"{len(plan.todo):,} to write by {self.captioner.name}"] * bool(plan.todo)
        words += [f"{plan.own:,} of the pictures' own"] * bool(plan.own)
        words += [f"{plan.written:,} written before"] * bool(plan.written)
        words += [f"{len(plan.held):,} in quarantine"] * bool(plan.held)
        self._say(f"{self.dataset}: captions of {readable_count(len(self.source), 'picture')}")
        self._say(f"  {', '.join(words)}")
        if plan.others:
            self._say(
                f"  {plan.others:,} of them by another model or prompt: "
                "latentkit.caption overwrite=true writes these anew"
            )

    def run(self, plan: CaptionPlan) -> CaptionResult:
        """Write what the plan says is left. What is written stays so, whatever happens.

        Raises:
            TooManyFailuresError, LatentkitError: one line each.
        """
        remove_temporaries(self.root, below=False)
        remove_temporaries(self.root / LEDGERS, below=True)
        fold_captions(self.captions.path)
        release(self.root, CAPTIONING, sorted(plan.settled))
        try:
            if not plan.todo:
                return CaptionResult(0, 0, False)
            allowed = FailureLimit(
                partial(quarantine, self.root), len(self.source), self.max_failures, plan.held
            )
            held = Quarantine.read(self.root).held(CAPTIONING)
            run = CaptionRun(self.captioner, self.source, self.captions, self.root, set(held), allowed)
            return run.write(plan.todo, self.console)
        finally:
            quarantine_ledger(self.root).fold()
            fold_captions(self.captions.path)

    def fill(self) -> bool:
        """Plan, and unless this is a dry run write what is missing; False when it was interrupted."""
        plan = self.plan()
        self._announce(plan)
        if self.dry_run or not (plan.todo or plan.settled):
            return True
        return self.summarise(plan, self.run(plan)).status != INTERRUPTED

    def summarise(self, plan: CaptionPlan, result: CaptionResult) -> Outcome:
        """Print the table."""
        counts = plan.counts(result.written, result.failed)
        bad, left = counts["quarantined"], counts["left"]
        state = "interrupted" if result.interrupted else "done"
        table = Table(title=f"{self.dataset}: {state}", title_justify="left", title_style="bold")
        table.add_column("captions by", no_wrap=True)
        headings = ["written", "skipped", "own", "bad", *["left"] * bool(left)]
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        cells = [f"{count:,}" for count in counts.values()][: len(headings)]
        table.add_row(self.captioner.name, *cells)
        self.console.print(table)
        if len(self.captions):
            self._say(f"in {self.captions.path}")
        if bad:
            self._say(f"quarantined: {bad:,} in quarantine.jsonl (retry_quarantined=true tries them again)")
        if result.interrupted:
            self._say(f"interrupted with {left:,} left; the same command goes on from here")
            return Outcome(INTERRUPTED, counts)
        return Outcome(QUARANTINED if bad else DONE, counts)

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
