"""The contract as it lies beside outputs."""

import json
from pathlib import Path
from typing import Any

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError
from latentkit.runtime.provenance import versions

CONTRACT = "contract.json"
"""Beside arrays in files of their own; shards have it in their manifest."""


def contract_record(contract: Contract) -> dict[str, Any]:
    """A contract as it lies beside outputs: the contract, its hash, and the versions that wrote it."""
    return {"contract": contract.to_dict(), "sha256": contract.sha256, "versions": versions()}


def checked_contract(values: Any, digest: Any) -> Contract:
    """The contract of stored JSON values. Raises ValueError or ContractError where its hash does not fit."""
    contract = Contract.from_dict(values)
    if contract.sha256 != digest:
        raise ValueError("the contract's hash does not fit, somebody edited it")
    return contract


def read_contract(path: Path) -> Contract:
    """The contract in a contract.json, or in a manifest of shards.

    Raises:
        LatentkitError: it is damaged, or its hash does not fit.
    """
    try:
        values = json.loads(path.read_bytes())
        digest = values["sha256"] if "sha256" in values else values["contract_sha256"]
        return checked_contract(values["contract"], digest)
    except (OSError, ValueError, KeyError, TypeError, LatentkitError) as error:
        raise LatentkitError(
            f"{path} is no contract: {error}: restore it, or give overwrite=true to encode again"
        ) from None
