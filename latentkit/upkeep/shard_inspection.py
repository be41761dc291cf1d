"""Looking into one shard: its header, and, when it is read whole, its hash, numbers, keys and labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from latentkit.encoders.contract import Contract
from latentkit.stores.arrays import count_non_finite, match
from latentkit.stores.shard_file import Header, Tensor, read_header
from latentkit.stores.sidecar import Head

LABELS = "labels"

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Inspected:
    """What came of it.

    Attributes:
        problems: a kind of `latentkit.upkeep.findings`, and a detail.
        labels: int64 [N]; None where they were not read, or there are none.
        bytes: that were read.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    labels: np.ndarray | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Expected:
    """What a shard has to be.

    Attributes:
        head: its sidecar's.
        contract: what its numbers mean.
        labelled: whether there are classes.
        keys: of its rows; None: do not read the tensors.
        labels: int64 [N], of these keys; None where there are no classes, or not to be read.
    """

    head: Head
    contract: Contract
    labelled: bool
    keys: Sequence[str] | None = None
    labels: np.ndarray | None = None


def inspect_shard(path: Path, expected: Expected) -> Inspected:
    """Hold a shard's file against what it has to be; every byte is read at most once, 4 MiB at a time."""
    try:
        size = path.stat().st_size  # before it is opened, which of a pipe would wait for a writer
        if size != expected.head.bytes:
            return Inspected([("size", f"it has {size} bytes, its ledger says {expected.head.bytes}")])
        with path.open("rb") as file:
            try:
                header = read_header(file)
                keys = header.parse_keys()
            except ValueError as error:
                return Inspected([("unreadable", str(error))])
            if problem := _check_tensors(header, keys, expected):
                return Inspected([problem])
            if expected.keys is None:
                return Inspected([])
            return _read(file, header, keys, expected)
    except FileNotFoundError:
        return Inspected([("missing", "its ledger lists it")])
    except OSError as error:
        return Inspected([("unreadable", error.strerror or str(error))])


def _check_tensors(header: Header, keys: Sequence[str], expected: Expected) -> tuple[str, str] | None:
    """Names, shapes and types; nothing of the tensors is read."""
    if header.contract != expected.contract.sha256:
        return "changed", f"it is of contract {header.contract[:12]}, not {expected.contract.sha256[:12]}"
    outputs = dict(expected.contract.outputs)
    if expected.labelled:
        outputs[LABELS] = {"shape": [], "dtype": "int64"}
    if header.tensors.keys() != outputs.keys():
        return "shape", f"it holds {', '.join(sorted(header.tensors))}, not {', '.join(sorted(outputs))}"
    for name, tensor in header.tensors.items():
        declared = {**outputs[name], "shape": [expected.head.count, *outputs[name]["shape"]]}
        try:
            match(tensor.shape, tensor.dtype, declared)
        except ValueError as error:
            return "shape", f"{name}: {error}"
    if len(keys) != expected.head.count:
        return "keys", f"it has {len(keys):,} keys, its ledger lists {expected.head.count:,}"
    return None


def _read(file: BinaryIO, header: Header, keys: Sequence[str], expected: Expected) -> Inspected:
    problems: list[tuple[str, str]] = []
    if detail := _difference(keys, expected.keys or ()):
        problems.append(("keys", detail))
    sha256, labels = hashlib.sha256(header.raw), None
    for name, tensor in header.tensors.items():
        content = bytearray() if name == LABELS else None
        bad = _read_tensor(file, tensor, sha256.update, content)
        if bad:
            problems.append(("non-finite", f"{bad:,} numbers of {name}"))
        if content is not None:
            labels = np.frombuffer(content, np.int64)
    if sha256.hexdigest() != expected.head.sha256:
        problems.append(("changed", "its sha256 is not its ledger's"))
    if labels is not None and expected.labels is not None and (wrong := labels != expected.labels).any():
        row = int(np.argmax(wrong))
        detail = f"{int(wrong.sum()):,} are wrong: {keys[row]} has {labels[row]}, not {expected.labels[row]}"
        problems.append(("labels", detail))
    return Inspected(problems, labels, expected.head.bytes)


def _read_tensor(
    file: BinaryIO, tensor: Tensor, update: Callable[[bytes], object], content: bytearray | None
) -> int:
    """Hash a tensor; keep its bytes if asked. How many of its numbers are not finite."""
    left, bad = tensor.nbytes, 0
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise OSError("it became shorter while it was read")
        left -= len(chunk)
        update(chunk)
        if content is not None:
            content += chunk
        if tensor.dtype.kind == "f":
            bad += count_non_finite(np.frombuffer(chunk, tensor.dtype))
    return bad


def _difference(keys: Sequence[str], expected: Sequence[str]) -> str | None:
    """How a shard's keys differ from its ledger's, which are as many."""
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        return f"{len(twice):,} are there more than once, such as {twice[0]}"
    for row, (there, listed) in enumerate(zip(keys, expected, strict=True)):
        if there != listed:
            return f"row {row:,} is {there}, its ledger says {listed}"
    return None
