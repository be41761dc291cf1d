"""Looking into one shard: its header, and, when it is read whole, its hash, numbers, keys and labels."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.stores.arrays import count_non_finite, match
from latentkit.stores.shard_file import Header, read_header
from latentkit.stores.shard_output import LABELS
from latentkit.stores.sidecar import Head

_CHUNK = 1 << 22


class Inspected(NamedTuple):
    """What came of it.

    Attributes:
        problems: a kind of `latentkit.upkeep.findings`, and a detail.
        labels: int64 [N]; None where they were not read, or there are none.
        bytes: that were read.
    """

    problems: list[tuple[str, str]]
    labels: np.ndarray | None = None
    bytes: int = 0


def inspect_shard(
    path: Path,
    head: Head,
    contract: Contract,
    outputs: Mapping[str, Any],
    keys: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
) -> Inspected:
    """Hold a shard's file against what it has to be; every byte is read at most once, 4 MiB at a time.

    Args:
        path: the file.
        head: its sidecar's.
        contract: what its numbers mean.
        outputs: shape of a row and type of each tensor, as in a contract.
        keys: of its rows; None: read the header alone.
        labels: int64 [N], of these keys; None where there are no classes.
    """
    try:
        size = path.stat().st_size  # before it is opened, which of a pipe would wait for a writer
        if size != head.bytes:
            return Inspected([("size", f"it has {size} bytes, its ledger says {head.bytes}")])
        with path.open("rb") as file:
            header = read_header(file)
            there = header.parse_keys()
            problem = _check_header(header, len(there), head, contract, outputs)
            if problem or keys is None:
                return Inspected([problem] if problem else [])
            sha256, non_finite, found = _read(file, header)
    except FileNotFoundError:
        return Inspected([("missing", "its ledger lists it")])
    except (OSError, ValueError) as error:
        return Inspected([("unreadable", getattr(error, "strerror", None) or str(error))])
    problems = [("non-finite", f"{count:,} numbers of {name}") for name, count in non_finite.items()]
    if wrong_rows := [row for row, key in enumerate(there) if key != keys[row]]:
        row = wrong_rows[0]
        problems.append(("keys", f"row {row:,} is {there[row]}, its ledger says {keys[row]}"))
    if sha256 != head.sha256:
        problems.append(("changed", "its sha256 is not its ledger's"))
    if found is not None and labels is not None and (wrong := found != labels).any():
        row = int(np.argmax(wrong))
        detail = f"{int(wrong.sum()):,} are wrong: {keys[row]} has {found[row]}, not {labels[row]}"
        problems.append(("labels", detail))
    return Inspected(problems, found, head.bytes)


def _check_header(
    header: Header, keys: int, head: Head, contract: Contract, outputs: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Names, shapes and types; nothing of the tensors is read."""
    if header.contract != contract.sha256:
        return "changed", f"it is of contract {header.contract[:12]}, not {contract.sha256[:12]}"
    if header.tensors.keys() != outputs.keys():
        return "shape", f"it holds {', '.join(sorted(header.tensors))}, not {', '.join(sorted(outputs))}"
    for name, tensor in header.tensors.items():
        declared = {**outputs[name], "shape": [head.count, *outputs[name]["shape"]]}
        try:
            match(tensor.shape, tensor.dtype, declared)
        except ValueError as error:
            return "shape", f"{name}: {error}"
    if keys != head.count:
        return "keys", f"it has {keys:,} keys, its ledger lists {head.count:,}"
    return None


def _read(file: BinaryIO, header: Header) -> tuple[str, dict[str, int], np.ndarray | None]:
    """sha256; how many numbers are not finite, of the tensors that have such; the labels."""
    sha256, content, bad = hashlib.sha256(header.raw), bytearray(), Counter[str]()
    for name, tensor in header.tensors.items():
        for start in range(0, tensor.nbytes, _CHUNK):
            chunk = file.read(length := min(_CHUNK, tensor.nbytes - start))
            if len(chunk) < length:
                raise OSError("it became shorter while it was read")
            sha256.update(chunk)
            if name == LABELS:
                content += chunk
            elif tensor.dtype.kind == "f":
                bad[name] += count_non_finite(np.frombuffer(chunk, tensor.dtype))
    labels = np.frombuffer(content, np.int64) if LABELS in header.tensors else None
    return sha256.hexdigest(), dict(+bad), labels
