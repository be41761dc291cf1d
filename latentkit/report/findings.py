"""What a verification found, as a table on stderr and as JSON."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console

from latentkit.runtime.readable import readable_bytes, readable_count
from latentkit.runtime.terminal import print_table
from latentkit.upkeep.verification import KINDS, Finding, Verification

_NAMES_SHOWN = 3


def as_json(verified: Verification[Any], mended: int | None) -> dict[str, Any]:
    """JSON values: ``counts`` by kind, ``encoders``, every finding; ``set_aside`` is null without a fix.

    ``arrays`` counts the shards that were read, where these hold the arrays; ``records`` is null then.
    """
    return {
        "ok": not verified.findings,
        "pictures": verified.pictures,
        "records": verified.records,
        "arrays": verified.arrays,
        "bytes": verified.bytes,
        "encoders": [state._asdict() for state in verified.encoders],
        "counts": dict(Counter(found.kind for found in verified.findings)),
        "findings": [asdict(found) for found in verified.findings],
        "set_aside": mended,
    }


def print_findings(verified: Verification[Any], console: Console) -> None:
    """A line of what was looked at, a row for each kind that was found, and below it some of the places."""
    looked = [readable_count(verified.pictures, "picture")]
    if verified.records is not None:
        looked.append(readable_count(verified.records, "record"))
    looked.append(f"{readable_count(verified.arrays, verified.things)} read")
    console.print(f"{', '.join(looked)}, {readable_bytes(verified.bytes)}")
    for state in verified.encoders:
        words = [f"{state.done:,} whole"]
        words += [f"{state.bad:,} bad"] * bool(state.bad)
        words += [f"{state.quarantined:,} in quarantine"] * bool(state.quarantined)
        words += [f"{state.unchecked:,} not checked"] * bool(state.unchecked)
        words += [f"{state.incomplete:,} incomplete"] * bool(state.incomplete)
        console.print(f"  {state.encoder}: {', '.join(words)}")
    if not verified.findings:
        console.print("nothing is wrong")
        return
    places = {kind: [_place(found) for found in verified.findings if found.kind == kind] for kind in KINDS}
    rows = [
        (f"{kind}: {meaning}", remedy, f"{len(places[kind]):,}")
        for kind, (meaning, remedy) in KINDS.items()
        if places[kind]
    ]
    print_table(console, "what is wrong", ["what", "mended by", "count"], rows, left=["mended by"])
    for kind, where in places.items():
        for place in where[:_NAMES_SHOWN]:
            console.print(f"{kind}: {place}")
        if len(where) > _NAMES_SHOWN:
            console.print(f"{kind}: {len(where) - _NAMES_SHOWN:,} more; report=FILE has all")


def _place(found: Finding) -> str:
    """The file; in a file of lines, whose line or which."""
    return f"{found.path}: {found.key or found.detail}" if found.path.endswith(".jsonl") else found.path
