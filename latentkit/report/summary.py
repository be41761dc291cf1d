"""The end of a run: what it did, as a table on stderr and as summary.json, and how fast it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from latentkit.encoders import Contract, Encoder
from latentkit.prediction.plan import Plan
from latentkit.runtime.readable import readable_bytes, readable_count
from latentkit.runtime.terminal import first_lines, print_table
from latentkit.sources import Source
from latentkit.stores import Quarantine, Store
from latentkit.stores.ledger import read_facts
from latentkit.stores.storage import publish_json

if TYPE_CHECKING:
    from latentkit.prediction.encoding import RunResult

CUT = "caption cut"


def run_summary(
    plan: Plan,
    result: RunResult | None,
    left: Plan | None,
    *,
    dataset: str,
    source: Source,
    encoders: Sequence[Encoder],
    contracts: Mapping[str, Contract],
    store: Store,
    held_for: Iterable[str],
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """What summary.json says, as JSON values, from the plan, the result and the ledgers on the disk.

    ==========================  ======================================================================
    ``pictures``                in the collection
    ``incomplete``              of these, how many lack the output of one of the run's encoders:
                                quarantined, without a caption, or not reached
    ``seconds``                 from the command's start
    ``pictures_per_second``     over the passes alone
    ``conversions``             what this run's pictures went through, and under `CUT` how many captions of
                                the whole collection are longer than the text encoder's limit
    ``encoders``                one encoder's part each, in pictures:
    ``  done``                  encoded by this run
    ``  skipped``               done before and unchanged
    ``  quarantined``           in the quarantine ledger now
    ``  captionless``           without a caption to read
    ``  left``                  not reached, because the run was stopped
    ``  bytes``, ``folder``     of all its published arrays, and where they lie
    ``  contract``              sha256 of the encoding contract
    ``  pretrained``            false marks random weights
    ``  precision``             of the forward pass
    ``  batch_size``            that fitted in memory; null when nothing ran
    ``  peak_device_bytes``     device memory at its fullest during its pass; null on a CPU
    ==========================  ======================================================================

    Args:
        plan: the run's.
        result: None when there was nothing to encode.
        left: what is to be done now; None after a run that came to its end.
        held_for: the names in the quarantine ledger whose entries count: the encoders', and ``caption``.
        device: where there is no result to tell it.
        seconds: since the command's start.
    """
    ledger = Quarantine.read(store.root)
    keys = ledger.keys().intersection(source.keys())
    encoded: Counter[str] = result.encoded if result else Counter()
    todo = {part.encoder: part.todo for part in left.encoders} if left else {}
    lacking = {
        source[index].key
        for part in (left.encoders if left else ())
        for unit in part.units
        for index in unit.indices.tolist()
    }
    parts, cut = [], set()
    for part, encoder in zip(plan.encoders, encoders, strict=True):
        name, contract = encoder.name, contracts[encoder.name]
        held = ledger.held(name).keys() & keys
        lacking |= held | {*part.uncaptioned}
        done, others = encoded[name], part.done + len(held) + len(part.uncaptioned)
        if left:  # what is published counts: a shard that is not whole yet is left, all of it
            done = max(0, len(source) - others - todo[name])
        parts.append(
            {
                "encoder": name,
                "done": done,
                "skipped": part.done,
                "quarantined": len(held),
                "captionless": len(part.uncaptioned),
                "left": len(source) - done - others,
                "bytes": store.counts(name).bytes,
                "folder": str(Path(store.root, store.folders.get(name, name))),
                "contract": contract.sha256,
                "pretrained": contract.pretrained,
                "precision": encoder.precision,
                "batch_size": result.batch_sizes.get(name) if result else None,
                "peak_device_bytes": result.peak_bytes.get(name) if result else None,
            }
        )
        if encoder.geometry is None:
            facts = read_facts(Path(store.root), name)
            cut |= {key for key, _, fact in facts if fact.get("cut") and key not in part.uncaptioned}
    conversions = {name: count for name, count in result.notes.items() if count} if result else {}
    if cut and (count := len(cut.intersection(source.keys()))):
        conversions[CUT] = count
    quarantined = {
        (key, entry.stage, entry.reason, entry.time)
        for name in held_for
        for key, entry in ledger.held(name).items()
        if key in keys
    }
    rate = encoded.total() / len(contracts) / result.seconds if result and result.seconds else 0.0
    return {
        "dataset": dataset,
        "output_dir": store.root,
        "status": "done" if left is None else "interrupted",
        "pictures": len(source),
        "incomplete": len(lacking),
        "seconds": round(seconds, 3),
        "pictures_per_second": round(rate, 3) if rate else None,
        "device": result.device if result else device,
        "encoders": parts,
        "quarantine": [
            dict(zip(("key", "stage", "reason", "time"), entry, strict=True)) for entry in sorted(quarantined)
        ],
        "conversions": conversions,
        "ignored_files": source.ignored,
    }


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The table, and beneath it what a user should know."""
    counts = {"done": "done", "skipped": "skipped", "quarantined": "bad"}
    counts |= {
        name: heading
        for name, heading in (("captionless", "no caption"), ("left", "left"))
        if any(encoder[name] for encoder in summary["encoders"])
    }
    print_table(
        console,
        f"{summary['dataset']}: {summary['status']}",
        ["encoder", *counts.values(), "size", "contract"],
        [
            (
                encoder["encoder"],
                *(f"{encoder[name]:,}" for name in counts),
                readable_bytes(encoder["bytes"]),
                encoder["contract"][:12],
            )
            for encoder in summary["encoders"]
        ],
        left=["contract"],
    )
    for line in _remarks(summary):
        console.print(line)


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    speed, quarantine = summary["pictures_per_second"], summary["quarantine"]
    rate = f", {speed:,.1f} pictures/s" if speed else ""
    pictures = readable_count(summary["pictures"], "picture")
    lines = [f"{pictures}, {summary['seconds']:,.1f} s{rate}, on {summary['device']}"]
    lines.append(f"in {', '.join(dict.fromkeys(encoder['folder'] for encoder in summary['encoders']))}")
    if summary["incomplete"]:
        lines.append(f"incomplete: {readable_count(summary['incomplete'], 'picture')} without some output")
    conversions = sorted(summary["conversions"].items())
    if counts := [f"{name} {count:,}" for name, count in conversions if name != CUT]:
        lines.append(f"on the way: {', '.join(counts)}")
    if cut := summary["conversions"].get(CUT):
        lines.append(f"cut: {readable_count(cut, 'caption')} longer than the text encoder's max_length")
    if summary["ignored_files"]:
        lines.append(f"left out: {readable_count(summary['ignored_files'], 'other file')}")
    reasons = Counter(f"{entry['stage']}: {entry['reason']}" for entry in quarantine)
    if reasons:
        lines.append(f"quarantined ({len(quarantine):,} in quarantine.jsonl):")
        told = [f"{count:,} x {reason}" for reason, count in reasons.most_common()]
        lines += first_lines(told, "more reasons")
    if not all(encoder["pretrained"] for encoder in summary["encoders"]):
        lines.append(
            "RANDOM WEIGHTS: the shapes are real, the numbers mean nothing (weights=pretrained for real ones)"
        )
    return lines


def read_rates(root: str | Path) -> dict[str, float]:
    """Encoder -> pictures a second in the last run that encoded any: how long the next will take."""
    try:
        return json.loads(_file(root).read_bytes())
    except (OSError, ValueError):
        return {}


def publish_rates(root: str | Path, rates: Mapping[str, float]) -> None:
    """Keep the rates of a run; those of other encoders stay."""
    publish_json(_file(root), read_rates(root) | dict(rates))


def _file(root: str | Path) -> Path:
    return Path(root, ".latentkit", "rates.json")
