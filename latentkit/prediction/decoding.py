"""Runs in worker processes: picture bytes to what the encoders want to see, each picture decoded once."""

import hashlib
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from latentkit.errors import LatentkitError
from latentkit.pixels import DecodeError, Geometry, Pillow
from latentkit.sources.files import PICTURE_SUFFIXES
from latentkit.sources.source import Fingerprint, Source, SourceError

PICTURES_A_CHUNK = 16


@dataclass(frozen=True)
class Row:
    """One picture as a worker saw it.

    Attributes:
        index: in the source.
        source: fingerprint of the bytes; None when they could not be read.
        width, height: of the whole picture, upright.
        notes: conversions on the way to RGB (``cmyk``, ``rotated`` ...), and ``png named .JPEG``.
        stage, reason: set when the picture failed; it has no pixels then.
    """

    index: int
    source: Fingerprint | None
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    stage: str = ""
    reason: str = ""


Chunk = tuple[list[Row], list[tuple[int, list[int], torch.Tensor]]]
"""What crosses the process boundary: rows without pixels; and geometry's position, rows and pixels of equal
shape, stacked. One tensor a shape, not one a picture, because each tensor costs a file descriptor."""


@dataclass(frozen=True, eq=False)
class ChunkDecoder(Dataset[Chunk]):
    """Chunk number -> decoded, cropped pixels.

    Attributes:
        source: where the pictures are.
        indices: [N] source indices in the order of the run.
        wanted: [N] bit masks over `geometries`.
        geometries: the distinct views that the encoders ask for.
    """

    source: Source
    indices: np.ndarray
    wanted: np.ndarray
    geometries: Sequence[Geometry]

    def __len__(self) -> int:
        return -(-len(self.indices) // PICTURES_A_CHUNK)

    def __getitem__(self, number: int) -> Chunk:
        part = slice(number * PICTURES_A_CHUNK, (number + 1) * PICTURES_A_CHUNK)
        rows: list[Row] = []
        groups: dict[tuple[int, tuple[int, ...]], tuple[list[int], list[np.ndarray]]] = {}
        for index, mask in zip(self.indices[part].tolist(), self.wanted[part].tolist(), strict=True):
            row, arrays = self._decode(index, mask)
            for position, array in arrays.items():
                members, stack = groups.setdefault((position, array.shape), ([], []))
                members.append(len(rows))
                stack.append(array)
            rows.append(row)
        stacks = [
            (position, members, torch.from_numpy(np.stack(arrays)))
            for (position, _), (members, arrays) in groups.items()
        ]
        return rows, stacks

    def _decode(self, index: int, mask: int) -> tuple[Row, dict[int, np.ndarray]]:
        fingerprint = None
        try:
            data, stat = self.source.read(index)
            fingerprint = Fingerprint(hashlib.sha256(data).hexdigest(), stat)
            picture = Pillow(self.source.orient, self.source.strict)(data)
            arrays = {
                position: geometry(picture.pixels)
                for position, geometry in enumerate(self.geometries)
                if mask >> position & 1
            }
        except SourceError as error:
            return Row(index, fingerprint, stage="read", reason=str(error)), {}
        except (DecodeError, MemoryError) as error:
            return Row(index, fingerprint, stage="decode", reason=str(error) or type(error).__name__), {}
        height, width, _ = picture.pixels.shape
        notes = picture.notes + _misnamed(picture.format, self.source[index].location)
        for position in arrays:
            notes += self.geometries[position].notes(width, height)
        return Row(index, fingerprint, width, height, notes), arrays


def _misnamed(kind: str, location: str) -> tuple[str, ...]:
    """A note for a picture whose bytes are of another format than its name says."""
    suffix = location[location.rfind(".") :]
    said = PICTURE_SUFFIXES.get(suffix.lower(), kind)
    return () if said == kind else (f"{kind.lower()} named {suffix}",)


def decoded_rows(
    decoder: ChunkDecoder, workers: int
) -> Generator[tuple[Row, dict[int, np.ndarray]], None, None]:
    """Every picture of the decoder in its order, with geometry's position -> [H, W, C].

    The pixels are views of memory shared with the `workers` processes: copy what is to be kept. The loop
    around it belongs into `worker_deaths_told`.
    """
    workers = min(workers, len(decoder))
    loader = DataLoader(
        decoder,
        batch_size=None,
        collate_fn=lambda chunk: chunk,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # whatever a sweep's launcher made the default
        worker_init_fn=_leave_signals_to_the_parent,
    )
    for rows, stacks in loader:
        pixels: list[dict[int, np.ndarray]] = [{} for _ in rows]
        for position, members, stack in stacks:
            for member, picture in zip(members, stack.numpy(), strict=True):
                pixels[member][position] = picture
        yield from zip(rows, pixels, strict=True)


@contextmanager
def worker_deaths_told(workers: int) -> Iterator[None]:
    """For the whole loop, because torch tells of a dead worker by a signal, wherever the loop is just then.

    Raises:
        LatentkitError: a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LatentkitError(
            "a decoding process died (killed for memory?); give the same command "
            f"with fewer of them: workers={workers // 2}"
        ) from error


def _leave_signals_to_the_parent(_: int) -> None:
    """Terminals and schedulers signal the whole group; the parent ends its workers, and they end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
