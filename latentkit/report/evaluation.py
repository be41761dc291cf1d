"""The end of an evaluation: the same facts as a table on stderr and as report.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from latentkit.runtime.readable import readable_count, readable_seconds
from latentkit.runtime.terminal import print_table

REPORT = "report.json"

LABELS = {
    "fid": ("FID", ".2f"),
    "rfid": ("rFID", ".2f"),
    "sfid": ("sFID", ".2f"),
    "fd_dinov3": ("FD (DINOv3)", ".2f"),
    "inception_score": ("Inception Score", ".2f"),
    "inception_score_std": ("  its standard deviation", ".2f"),
    "kid": ("KID", ".5f"),
    "kid_std": ("  its standard deviation", ".5f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "f_score": ("F score", ".3f"),
    "psnr": ("PSNR, dB", ".2f"),
    "psnr_std": ("  its standard deviation", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "ssim_std": ("  its standard deviation", ".3f"),
}
"""Value -> how it is called in a table, and the digits that papers print."""


@dataclass(frozen=True)
class Compared:
    """One side of an evaluation.

    Attributes:
        name: short.
        pictures: how many were used; None where the statistics do not say.
        size: (height, width) of its pictures; None where there are several, or it is unknown.
        identity: JSON values: everything that its pictures, or its statistics, depend on.
    """

    name: str
    pictures: int | None
    size: tuple[int, int] | None
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """A whole evaluation.

    Attributes:
        name: of the results' folder.
        results: value -> number.
        left_out: metric -> why it has no value here.
        comparable: whether the numbers, but for the `unpublished`, can be held against published ones.
        reasons: why not; empty when they can.
        unpublished: metric -> why its values alone cannot.
        warnings: what is not known, or unusual, and does not forbid it.
        protocol: how was counted.
        metrics: metric -> its options.
        decoder: what made pictures of latents; None for pictures.
        extractors: what made features of pictures.
        job: the arguments of the run.
    """

    name: str
    results: Mapping[str, float]
    left_out: Mapping[str, str]
    comparable: bool
    reasons: Sequence[str]
    unpublished: Mapping[str, str]
    warnings: Sequence[str]
    generated: Compared
    reference: Compared | None
    protocol: Mapping[str, Any]
    metrics: Mapping[str, Any]
    decoder: Mapping[str, Any] | None
    extractors: Mapping[str, Any]
    seconds: float
    pictures_per_second: float | None
    device: str
    peak_device_bytes: int | None
    job: Sequence[str]
    provenance: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as report.json holds them."""
        return {"kind": "latentkit.evaluation", **asdict(self)}


def label(name: str) -> str:
    """What a value is called in a table."""
    return LABELS.get(name, (name, ""))[0]


def describe_value(name: str, value: float) -> str:
    """A result with the digits that papers print; what rounds to zero has no sign."""
    text = format(value, LABELS.get(name, ("", ".4f"))[1])
    return text if float(text) else text.removeprefix("-")


def print_report(report: Report, console: Console) -> None:
    """The table, and beneath it what a reader has to know of the numbers."""
    rows = [(label(name), describe_value(name, value)) for name, value in report.results.items()]
    print_table(console, report.name, ["metric", "value"], rows)
    for line in _remarks(report):
        console.print(line)


def _remarks(report: Report) -> list[str]:
    sides = [_side(report.generated)]
    sides += [f"against {_side(report.reference)}"] if report.reference else []
    rate = f", {report.pictures_per_second:,.1f} pictures/s" if report.pictures_per_second else ""
    lines = [
        f"{' '.join(sides)}, protocol {report.protocol['name']}",
        f"{readable_seconds(report.seconds)}{rate}, on {report.device}",
    ]
    if report.decoder:
        lines.append(
            f"decoded by {report.decoder['model']} in {report.decoder['precision']}, "
            f"rounding {report.decoder['rounding']}"
        )
    lines += [f"left out: {metric}: {reason}" for metric, reason in report.left_out.items()]
    lines += [f"note: {warning}" for warning in report.warnings]
    excepted = [f"{metric} ({why})" for metric, why in report.unpublished.items()]
    if report.comparable:
        but = f", but for {', '.join(excepted)}" if excepted else ""
        return [*lines, f"comparable with numbers of this protocol{but}"]
    return [*lines, f"NOT COMPARABLE with published numbers: {'; '.join([*report.reasons, *excepted])}"]


def _side(side: Compared) -> str:
    told = [readable_count(side.pictures, "picture")] if side.pictures is not None else []
    told += [f"{side.size[1]}x{side.size[0]}"] if side.size else []
    return f"{side.name} ({', '.join(told)})" if told else side.name
