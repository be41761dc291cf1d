"""The contracts of an `NpyStore`, and folders that have none."""

from __future__ import annotations

import contextlib
from pathlib import Path

from latentkit.encoders.contract import Contract
from latentkit.errors import LatentkitError
from latentkit.sources.files import printable
from latentkit.stores.contract_file import read_contract
from latentkit.stores.ledger import encoders_begun
from latentkit.stores.npy import NpyStore, arrays_below
from latentkit.upkeep.findings import Finding


def require_outputs(store: NpyStore) -> None:
    """Refuse a folder in which nothing can be verified.

    Raises:
        LatentkitError: there is no contract, ledger or records file of `.npy` outputs; or some lie in shards.
    """
    root = Path(store.root)
    if not root.is_dir():
        raise LatentkitError(f"{root} does not exist: encode first, or set output_dir")
    for path in (root / "manifest.json", *sorted(root.glob("*/manifest.json"))):
        if path.exists() and (encoder := _encoder_of(path)):
            raise LatentkitError(f"{path.parent} holds {encoder} in shards: give store=shards")
    contracts = (folder / "contract.json" for folder in store.array_folders().values())
    if not (
        encoders_begun(root) or any(path.exists() for path in contracts) or (root / store.records).exists()
    ):
        raise LatentkitError(f"{root} holds no encoder's contract.json: encode first, or set output_dir")


def _encoder_of(manifest: Path) -> str | None:
    """Whose shards a manifest lists; None for a manifest of tars."""
    with contextlib.suppress(LatentkitError):
        return read_contract(manifest).encoder
    return None


def read_contracts(store: NpyStore) -> tuple[dict[str, Contract], list[Finding]]:
    """Encoder -> contract, of folders that are their encoders'; and what is wrong with the others."""
    contracts: dict[str, Contract] = {}
    findings: list[Finding] = []
    further: set[Path] = set()
    without: list[Path] = []

    def find(path: Path, detail: str, encoder: str | None = None) -> None:
        findings.append(Finding("contract", printable(path), detail, encoder))

    for name, folder in store.array_folders().items():
        path = folder / "contract.json"
        if not path.exists():
            without.append(folder)
            continue
        try:
            contract = read_contract(path)
        except LatentkitError as error:
            find(path, str(error))
            continue
        there = store.folders.get(contract.encoder, contract.encoder)
        if there != name:
            find(path, f"is {contract.encoder}'s, whose folder is {there}", contract.encoder)
            continue
        contracts[contract.encoder] = contract
        further.update(store.output_folders(contract.encoder, contract).values())
    for folder in without:
        if folder not in further and (count := sum(1 for _ in arrays_below(folder))):
            find(folder / "contract.json", f"missing, beside {count:,} arrays")
    return contracts, findings
