"""Opening what an encoding run left: one encoder's outputs, or all encoders' below a folder."""

from collections.abc import Iterable
from pathlib import Path

from latentkit.encoders.contract import Contract
from latentkit.errors import UsageError
from latentkit.stores.contract_file import CONTRACT, read_contract
from latentkit.stores.npy import NpyOutput
from latentkit.stores.output import Output
from latentkit.stores.shard_manifest import MANIFEST
from latentkit.stores.shard_output import ShardOutput


def open_output(path: str | Path, *, partial: bool = False) -> Output:
    """The outputs of one encoder.

    Args:
        path: an encoder's folder of ``store=npy`` or ``store=shards``, or the contract.json or manifest.json
            in it.
        partial: also shards of a run that was stopped.

    Raises:
        UsageError: there is neither.
        LatentkitError: what is there is damaged; of shards, not complete, or one is missing or has another
            size than the manifest says.
    """
    path = Path(path)
    folder = path.parent if path.name in {CONTRACT, MANIFEST} else path
    if path.name != MANIFEST and (folder / CONTRACT).exists():
        return NpyOutput(folder)
    if path.name != CONTRACT and (folder / MANIFEST).exists():
        return ShardOutput(folder / MANIFEST, partial=partial)
    raise UsageError(f"{path} holds no encoder's {CONTRACT} or {MANIFEST}: give the folder of one encoder")


def find_outputs(root: str | Path) -> dict[Path, Contract]:
    """Folder -> contract of each encoder's outputs right below a folder, sorted.

    Raises:
        LatentkitError: a contract or a manifest is damaged.
    """
    found = {path.parent: path for name in (MANIFEST, CONTRACT) for path in Path(root).glob(f"*/{name}")}
    return {folder: read_contract(path) for folder, path in sorted(found.items())}


def npy_outputs(root: str | Path, folders: Iterable[str] = ()) -> dict[str, NpyOutput]:
    """Encoder -> its .npy outputs, sorted by name: those right below a folder, and in ``folders`` under it.

    Raises:
        UsageError: there are none.
        LatentkitError: a contract is damaged.
    """
    paths = {*Path(root).glob(f"*/{CONTRACT}"), *(Path(root, folder, CONTRACT) for folder in folders)}
    found = [NpyOutput(path.parent) for path in paths if path.exists()]
    if not found:
        raise UsageError(f"{root} holds no encoder's {CONTRACT}: encode first, or give another output_dir")
    return {found.contract.encoder: found for found in sorted(found, key=lambda each: each.contract.encoder)}
