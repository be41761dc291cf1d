"""The end of a run: the same facts as a table on stderr and as summary.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from latentkit.runtime.readable import readable_bytes, readable_count
from latentkit.runtime.terminal import first_lines, print_table

CUT = "caption cut"


@dataclass(frozen=True)
class EncoderSummary:
    """One encoder's part of a run, in pictures.

    Attributes:
        done: encoded by this run.
        skipped: done before and unchanged.
        quarantined: in the quarantine ledger now.
        captionless: without a caption to read.
        left: not reached, because the run was stopped.
        bytes: of all its published arrays.
        folder: where they lie.
        contract: sha256 of the encoding contract.
        pretrained: False marks random weights.
        precision: of the forward pass.
        batch_size: that fitted in memory; None when nothing ran.
        peak_device_bytes: device memory at its fullest during its pass; None on a CPU.
    """

    encoder: str
    done: int
    skipped: int
    quarantined: int
    captionless: int
    left: int
    bytes: int
    folder: str
    contract: str
    pretrained: bool
    precision: str
    batch_size: int | None
    peak_device_bytes: int | None


@dataclass(frozen=True)
class Summary:
    """A whole run.

    Attributes:
        pictures: in the collection.
        incomplete: of these, how many lack the output of one of the run's encoders: quarantined, without a
            caption, or not reached.
        seconds: from the command's start.
        pictures_per_second: over the passes alone.
        conversions: what this run's pictures went through, and under `CUT` how many captions of the whole
            collection are longer than the text encoder's limit.
    """

    dataset: str
    output_dir: str
    status: str
    pictures: int
    incomplete: int
    seconds: float
    pictures_per_second: float | None
    device: str
    encoders: Sequence[EncoderSummary]
    quarantine: Sequence[Mapping[str, Any]]
    conversions: Mapping[str, int]
    ignored_files: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as summary.json holds them."""
        return asdict(self)

    @property
    def random(self) -> bool:
        """Whether any encoder ran with random weights."""
        return not all(encoder.pretrained for encoder in self.encoders)


def print_summary(summary: Summary, console: Console) -> None:
    """The table, and beneath it what a user should know."""
    counts = {"done": "done", "skipped": "skipped", "quarantined": "bad"}
    counts |= {
        name: heading
        for name, heading in (("captionless", "no caption"), ("left", "left"))
        if any(getattr(encoder, name) for encoder in summary.encoders)
    }
    print_table(
        console,
        f"{summary.dataset}: {summary.status}",
        ["encoder", *counts.values(), "size", "contract"],
        [
            (
                encoder.encoder,
                *(f"{getattr(encoder, name):,}" for name in counts),
                readable_bytes(encoder.bytes),
                encoder.contract[:12],
            )
            for encoder in summary.encoders
        ],
        left=["contract"],
    )
    for line in _remarks(summary):
        console.print(line)


def _remarks(summary: Summary) -> list[str]:
    rate = f", {summary.pictures_per_second:,.1f} pictures/s" if summary.pictures_per_second else ""
    pictures = readable_count(summary.pictures, "picture")
    lines = [f"{pictures}, {summary.seconds:,.1f} s{rate}, on {summary.device}"]
    lines.append(f"in {', '.join(dict.fromkeys(encoder.folder for encoder in summary.encoders))}")
    if summary.incomplete:
        lines.append(f"incomplete: {readable_count(summary.incomplete, 'picture')} lack some output")
    counts = [f"{name} {count:,}" for name, count in sorted(summary.conversions.items()) if name != CUT]
    if counts:
        lines.append(f"on the way: {', '.join(counts)}")
    if cut := summary.conversions.get(CUT):
        lines.append(f"cut: {readable_count(cut, 'caption')} longer than the text encoder's max_length")
    if summary.ignored_files:
        lines.append(f"left out: {readable_count(summary.ignored_files, 'other file')}")
    reasons = Counter(f"{entry['stage']}: {entry['reason']}" for entry in summary.quarantine)
    if reasons:
        lines.append(f"quarantined ({len(summary.quarantine):,} in quarantine.jsonl):")
        told = [f"{count:,} x {reason}" for reason, count in reasons.most_common()]
        lines += first_lines(told, "more reasons")
    if summary.random:
        lines.append(
            "RANDOM WEIGHTS: the shapes are real, the numbers mean nothing (weights=pretrained for real ones)"
        )
    return lines
