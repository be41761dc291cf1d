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
    held_for: Sequence[str],
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
    keys = _quarantined_keys(source, ledger)
    parts = _encoder_summaries(
        plan.encoders, result, left, encoders, list(contracts.values()), store, ledger, keys, len(source)
    )
    encoded = sum(result.encoded[name] for name in contracts) / len(contracts) if result else 0
    passes = result.seconds if result else 0.0
    held = {key for name in contracts for key in ledger.held(name)} & keys
    return Summary(
        dataset=dataset,
        output_dir=store.root,
        status="done" if left is None else "interrupted",
        pictures=len(source),
        incomplete=_incomplete(source, plan, left, held),
        seconds=round(seconds, 3),
        pictures_per_second=round(encoded / passes, 3) if encoded and passes else None,
        device=result.device if result else device,
        encoders=parts,
        quarantine=_quarantine_entries(ledger, held_for, keys),
        conversions=_conversions(source, plan, result, encoders, store),
        ignored_files=source.ignored,
    )


def _quarantined_keys(source: Source, ledger: Quarantine) -> set[str]:
    """Keys of the ledger that are (still) the source's."""
    keys = ledger.keys()
    return {key for index in range(len(source)) if (key := source[index].key) in keys} if keys else set()


def _quarantine_entries(ledger: Quarantine, encoders: Iterable[str], keys: Set[str]) -> list[dict[str, str]]:
    """Each picture and reason once, for the encoders and keys of this run."""
    found = {
        (key, held.stage, held.reason, held.time)
        for encoder in encoders
        for key, held in ledger.held(encoder).items()
        if key in keys
    }
    return [dict(zip(("key", "stage", "reason", "time"), entry, strict=True)) for entry in sorted(found)]


def _incomplete(source: Source, plan: Plan, left: Plan | None, held: Set[str]) -> int:
    """How many pictures lack the output of one of the run's encoders; `held` are those in quarantine now."""
    lacking = {key for part in plan.encoders for key in part.uncaptioned} | held
    for part in left.encoders if left else ():
        lacking.update(source[index].key for unit in part.units for index in unit.indices.tolist())
    return len(lacking)


def _conversions(
    source: Source, plan: Plan, result: RunResult | None, encoders: Sequence[Encoder], store: Store
) -> dict[str, int]:
    """What this run noted, and the number of captions cut in the whole collection where a ledger knows it."""
    notes = dict(result.notes) if result else {}
    cut: set[str] = set()
    for part, encoder in zip(plan.encoders, encoders, strict=True):
        if encoder.geometry is None:
            facts = read_facts(Path(store.root), encoder.name)
            cut.update(key for key, _, fact in facts if fact.get("cut") and key not in part.uncaptioned)
    if cut:
        notes[CUT] = len(cut.intersection(source.keys()))
    return {name: count for name, count in notes.items() if count}


def _encoder_summaries(
    parts: Sequence[EncoderPlan],
    result: RunResult | None,
    left: Plan | None,
    encoders: Sequence[Encoder],
    contracts: Sequence[Contract],
    store: Store,
    ledger: Quarantine,
    keys: Set[str],
    pictures: int,
) -> list[EncoderSummary]:
    """One summary an encoder; the sequences are in one order, `pictures` is the source's length.

    Done is what is published: a shard that an interruption kept from being whole is left, all of it.
    """
    still = {part.encoder: part.todo for part in left.encoders} if left else {}
    summaries = []
    for part, encoder, contract in zip(parts, encoders, contracts, strict=True):
        name = encoder.name
        quarantined = sum(key in keys for key in ledger.held(name))
        others = part.done + quarantined + part.captionless
        done = result.encoded[name] if result else 0
        if name in still:
            done = max(0, pictures - others - still[name])
        summaries.append(
            EncoderSummary(
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
        )
    return summaries
