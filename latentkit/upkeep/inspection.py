"""Reading every array of some folders once, in threads, a few chunks at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from latentkit.encoders.contract import Contract, resolve_shape
from latentkit.sources.files import printable
from latentkit.stores.arrays import inspect_npy
from latentkit.stores.npy import array_path
from latentkit.upkeep.findings import Finding
from latentkit.upkeep.record_checks import Listed
from latentkit.upkeep.threads import in_threads

_CHUNK = 64


class Output(NamedTuple):
    """One folder of arrays to be read: the keys that its ledger lists, that are there and have a picture."""

    encoder: str
    folder: Path
    contract: Contract
    name: str
    keys: list[str]

    def declared(self, entry: Listed) -> Mapping[str, Any]:
        """Shape and dtype of one picture's array, ``H/8`` and ``W/8`` in numbers where that is known."""
        declared = self.contract.outputs[self.name]
        if entry.bucket is not None:
            width, height = map(int, entry.bucket.split("x"))
        elif self.contract.recorded and entry.width is not None and entry.height is not None:
            width, height = entry.width, entry.height
        else:
            return declared
        return {**declared, "shape": resolve_shape(declared["shape"], height, width)}


def inspect_all(
    outputs: list[Output], listed: Mapping[str, Mapping[str, Listed]]
) -> Iterator[tuple[int, list[Finding]]]:
    """(arrays read, findings) of one chunk after the other; a few chunks are under way at a time."""
    chunks = (
        (output, output.keys[start : start + _CHUNK])
        for output in outputs
        for start in range(0, len(output.keys), _CHUNK)
    )
    work = in_threads(lambda chunk: _inspect(*chunk, listed[chunk[0].encoder]), chunks)
    return ((len(keys), found) for (_, keys), found in work)


def _inspect(output: Output, keys: list[str], ledger: Mapping[str, Listed]) -> list[Finding]:
    found: list[Finding] = []
    for key in keys:
        path = array_path(output.folder, key)
        if problem := inspect_npy(path, output.declared(ledger[key])):
            found.append(Finding(problem[0], printable(path), problem[1], output.encoder, key))
    return found
