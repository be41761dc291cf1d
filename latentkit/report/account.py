"""What a run did, from its plan, its result and the ledgers on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from latentkit.encoders import Contract, Encoder
from latentkit.prediction.plan import EncoderPlan, Plan
from latentkit.report.summary import CUT, EncoderSummary, Summary
from latentkit.sources import Source
from latentkit.stores import Quarantine, Store
from latentkit.stores.ledger import read_facts

if TYPE_CHECKING:
    from latentkit.prediction.run import RunResult


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
) -> Summary:
    """What summary.json says.

    Args:
        plan: the run's.
        result: None when there was nothing to encode.
        left: what is to be done now; None after a run that came to its end.
        held_for: the names in the quarantine ledger whose entries count: the encoders', and ``caption``.
        device: where there is no result to tell it.
        seconds: since the command's start.
    """
    ledger = Quarantine.read(store.root)
    known = ledger.keys()
    keys = known.intersection(source.keys()) if known else set()
    still = {part.encoder: part.todo for part in left.encoders} if left else {}
    parts, cut = [], set()
    for part, encoder in zip(plan.encoders, encoders, strict=True):
        held = len(ledger.held(part.encoder).keys() & keys)
        parts.append(_encoder_summary(part, encoder, contracts, store, result, held, still, len(source)))
        if encoder.geometry is None:
            facts = read_facts(Path(store.root), encoder.name)
            cut |= {key for key, _, fact in facts if fact.get("cut") and key not in part.uncaptioned}
    conversions = {name: count for name, count in result.notes.items() if count} if result else {}
    if cut and (count := len(cut.intersection(source.keys()))):
        conversions[CUT] = count
    lacking = {key for part in plan.encoders for key in part.uncaptioned}
    lacking |= {key for name in contracts for key in ledger.held(name)} & keys
    for part in left.encoders if left else ():
        lacking |= {source[index].key for unit in part.units for index in unit.indices.tolist()}
    encoded = sum(result.encoded[name] for name in contracts) / len(contracts) if result else 0
    passes = result.seconds if result else 0.0
    return Summary(
        dataset=dataset,
        output_dir=store.root,
        status="done" if left is None else "interrupted",
        pictures=len(source),
        incomplete=len(lacking),
        seconds=round(seconds, 3),
        pictures_per_second=round(encoded / passes, 3) if encoded and passes else None,
        device=result.device if result else device,
        encoders=parts,
        quarantine=_quarantine_entries(ledger, held_for, keys),
        conversions=conversions,
        ignored_files=source.ignored,
    )


def _encoder_summary(
    part: EncoderPlan,
    encoder: Encoder,
    contracts: Mapping[str, Contract],
    store: Store,
    result: RunResult | None,
    quarantined: int,
    still: Mapping[str, int],
    pictures: int,
) -> EncoderSummary:
    """Done is what is published: a shard that an interruption kept from being whole is left, all of it."""
    name, contract = encoder.name, contracts[encoder.name]
    others = part.done + quarantined + part.captionless
    done = result.encoded[name] if result else 0
    if name in still:
        done = max(0, pictures - others - still[name])
    return EncoderSummary(
        encoder=name,
        done=done,
        skipped=part.done,
        quarantined=quarantined,
        captionless=part.captionless,
        left=pictures - done - others,
        bytes=store.counts(name).bytes,
        folder=str(Path(store.root, store.folders.get(name, name))),
        contract=contract.sha256,
        pretrained=contract.pretrained,
        precision=encoder.precision,
        batch_size=result.batch_sizes.get(name) if result else None,
        peak_device_bytes=result.peak_bytes.get(name) if result else None,
    )


def _quarantine_entries(ledger: Quarantine, names: Iterable[str], keys: Set[str]) -> list[dict[str, str]]:
    """Each picture and reason once."""
    found = {
        (key, held.stage, held.reason, held.time)
        for name in names
        for key, held in ledger.held(name).items()
        if key in keys
    }
    return [dict(zip(("key", "stage", "reason", "time"), entry, strict=True)) for entry in sorted(found)]
