"""The end of an evaluation: the same facts as a table on stderr and as report.json."""

from collections.abc import Mapping
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


def label(name: str) -> str:
    """What a value is called in a table."""
    return LABELS.get(name, (name, ""))[0]


def describe_value(name: str, value: float) -> str:
    """A result with the digits that papers print; what rounds to zero has no sign."""
    text = format(value, LABELS.get(name, ("", ".4f"))[1])
    return text if float(text) else text.removeprefix("-")


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """The table, and beneath it what a reader has to know of the numbers.

    Args:
        report: what report.json says.
    """
    rows = [(label(name), describe_value(name, value)) for name, value in report["results"].items()]
    print_table(console, report["name"], ["metric", "value"], rows)
    for line in _remarks(report):
        console.print(line)


def _remarks(report: Mapping[str, Any]) -> list[str]:
    against = f" against {_side(report['reference'])}" if report["reference"] else ""
    speed, decoder = report["pictures_per_second"], report["decoder"]
    rate = f", {speed:,.1f} pictures/s" if speed else ""
    lines = [
        f"{_side(report['generated'])}{against}, protocol {report['protocol']['name']}",
        f"{readable_seconds(report['seconds'])}{rate}, on {report['device']}",
    ]
    if decoder:
        made = f"decoded by {decoder['model']} in {decoder['precision']}"
        lines.append(f"{made}, rounding {decoder['rounding']}")
    lines += [f"left out: {metric}: {reason}" for metric, reason in report["left_out"].items()]
    lines += [f"note: {warning}" for warning in report["warnings"]]
    excepted = [f"{metric} ({why})" for metric, why in report["unpublished"].items()]
    if report["comparable"]:
        but = f", but for {', '.join(excepted)}" if excepted else ""
        return [*lines, f"comparable with numbers of this protocol{but}"]
    return [*lines, f"NOT COMPARABLE with published numbers: {'; '.join([*report['reasons'], *excepted])}"]


def _side(side: Mapping[str, Any]) -> str:
    told = [readable_count(side["pictures"], "picture")] if side["pictures"] is not None else []
    told += [f"{side['size'][1]}x{side['size'][0]}"] if side["size"] else []
    return f"{side['name']} ({', '.join(told)})" if told else side["name"]
