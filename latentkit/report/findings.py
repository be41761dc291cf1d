"""What a verification found, as a table on stderr and as JSON."""

import itertools
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from latentkit.runtime.readable import readable_bytes, readable_count
from latentkit.upkeep.findings import KINDS, Finding
from latentkit.upkeep.verification import Verification

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
    table = Table(title="what is wrong", title_justify="left", title_style="bold")
    for heading in ("what", "mended by"):
        table.add_column(heading, overflow="fold")
    table.add_column("count", justify="right", no_wrap=True)
    counts = Counter(found.kind for found in verified.findings)
    for kind in (kind for kind in KINDS if counts[kind]):
        meaning, remedy = KINDS[kind]
        table.add_row(f"{kind}: {meaning}", remedy, f"{counts[kind]:,}")
    console.print(table, soft_wrap=False)
    for kind in (kind for kind in KINDS if counts[kind]):
        where = (_place(found) for found in verified.findings if found.kind == kind)
        for place in itertools.islice(where, _NAMES_SHOWN):
            console.print(f"{kind}: {place}")
        if counts[kind] > _NAMES_SHOWN:
            console.print(f"{kind}: {counts[kind] - _NAMES_SHOWN:,} more; report=FILE has all")


def _place(found: Finding) -> str:
    """The file; in a file of lines, whose line or which."""
    return f"{found.path}: {found.key or found.detail}" if found.path.endswith(".jsonl") else found.path
