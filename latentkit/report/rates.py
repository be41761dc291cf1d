"""How fast the last run into an output was, from which the next one tells how long it will take."""

import json
from collections.abc import Mapping
from pathlib import Path

from latentkit.stores.storage import publish_json


def read_rates(root: str | Path) -> dict[str, float]:
    """Encoder -> pictures a second in the last run that encoded any."""
    try:
        rates: dict[str, float] = json.loads(_file(root).read_bytes())
    except (OSError, ValueError):
        return {}
    return rates


def publish_rates(root: str | Path, rates: Mapping[str, float]) -> None:
    """Keep the rates of a run; those of other encoders stay."""
    publish_json(_file(root), read_rates(root) | dict(rates))


def _file(root: str | Path) -> Path:
    return Path(root, ".latentkit", "rates.json")
