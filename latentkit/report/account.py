"""What a run did, from its plan, its result and the ledgers on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from latentkit.encoders import Contract, Encoder
from latentkit.prediction.plan import EncoderPlan
from latentkit.report.summary import EncoderSummary
from latentkit.sources import Source
from latentkit.stores import Quarantine, Store

if TYPE_CHECKING:
    from latentkit.prediction.run import RunResult


def quarantined_keys(source: Source, ledger: Quarantine) -> set[str]:
    """Keys of the ledger that are (still) the source's."""
    keys = ledger.keys()
    return {key for index in range(len(source)) if (key := source[index].key) in keys} if keys else set()


def quarantine_entries(ledger: Quarantine, encoders: Iterable[str], keys: Set[str]) -> list[dict[str, str]]:
    """Each picture and reason once, for the encoders and keys of this run."""
    found = {
        (key, held.stage, held.reason, held.time)
        for encoder in encoders
        for key, held in ledger.held(encoder).items()
        if key in keys
    }
    return [dict(zip(("key", "stage", "reason", "time"), entry, strict=True)) for entry in sorted(found)]


def encoder_summaries(
    parts: Sequence[EncoderPlan],
    result: RunResult | None,
    encoders: Sequence[Encoder],
    contracts: Sequence[Contract],
    store: Store,
    ledger: Quarantine,
    keys: Set[str],
    pictures: int,
) -> list[EncoderSummary]:
    """One summary an encoder; the sequences are in one order, `pictures` is the source's length."""
    summaries = []
    for part, encoder, contract in zip(parts, encoders, contracts, strict=True):
        name = encoder.name
        done = result.encoded[name] if result else 0
        quarantined = sum(key in keys for key in ledger.held(name))
        summaries.append(
            EncoderSummary(
                encoder=name,
                done=done,
                skipped=part.done,
                quarantined=quarantined,
                captionless=part.captionless,
                left=pictures - done - part.done - quarantined - part.captionless,
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
