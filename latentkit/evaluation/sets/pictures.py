"""Pictures of a source, decoded by processes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from latentkit.errors import LatentkitError
from latentkit.evaluation.picture_set import NAMED, PictureSet, ordered
from latentkit.pixels.geometry import CropToMultiple, Geometry
from latentkit.sources.source import Source
from latentkit.stores.output import listing_sha256

_LOOKED_ON = 256


class SourcePictures(PictureSet):
    """A source's pictures, each in a geometry or as it is.

    A loop over `rows` with workers belongs into `latentkit.prediction.decoding.worker_deaths_told`. A picture
    that cannot be read ends it; so that several need not be found run by run, up to three among the next 256
    are named.

    Args:
        source: where they are.
        geometry: how they are cropped to uint8; None leaves them as they are.
        name: see `PictureSet`.

    Attributes:
        source, geometry: as given.
        indices: int64 [N], each picture's in the source.
    """

    def __init__(self, source: Source, geometry: Geometry | None, name: str) -> None:
        self.source, self.geometry, self.name = source, geometry, name
        self.keys, self.indices = ordered(list(source.keys()), name)

    def only(self, keys: Sequence[str]) -> Self:
        """The same set with these pictures of it alone.

        Args:
            keys: ascending; each one of the set's.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        chosen = copy(self)
        chosen.__dict__.pop("identity", None)
        chosen.keys = list(keys)
        chosen.indices = self.indices[[places[key] for key in keys]]
        return chosen

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        from latentkit.prediction.decoding import ChunkDecoder, decoded_rows

        seen = [self.geometry or CropToMultiple(multiple=1)]
        indices = self.indices[positions]
        decoder = ChunkDecoder(self.source, indices, np.ones_like(indices), seen)
        with closing(decoded_rows(decoder, workers)) as rows:  # ends its processes, whoever keeps the error
            for row, pixels in rows:
                if row.stage:
                    further = (later for later, _ in islice(rows, _LOOKED_ON) if later.stage)
                    told = "; ".join(
                        f"{self.source[bad.index].location}: {bad.reason}"
                        for bad in (row, *islice(further, NAMED - 1))
                    )
                    raise LatentkitError(f"{self.name}: unreadable pictures: {told}: mend or remove them")
                yield pixels[0]

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Count, geometry, orientation, the pictures' place, and a hash over every key, size and mtime.

        As they were when it was first asked for.
        The place is the first picture's folder or archive, links resolved: with the keys it tells where each
        one lies, since a source has one root. Where a source has nothing to stat, its fields count.
        """
        stats = [self.source.stat(index) for index in self.indices.tolist()]
        described: dict[str, Any] = {
            "kind": "pictures",
            "count": len(self),
            "geometry": self.geometry.describe() if self.geometry else None,
            "orientation": "exif" if self.source.orient else "ignored",
            "files": listing_sha256(zip(self.keys, stats, strict=True)),
        }
        there = next((index for index, stat in zip(self.indices, stats, strict=True) if stat), None)
        if there is not None:
            place = Path(self.source[int(there)].location).expanduser().parent
            described["place"] = str(place.resolve())
        if None in stats:
            described["source"] = repr(self.source)
        return described
