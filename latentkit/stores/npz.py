import io
from dataclasses import dataclass

import numpy as np

from latentkit.stores import PictureStore
from latentkit.stores.npy import keyed_path
from latentkit.stores.storage import Publication


@dataclass(kw_only=True)
class NpzStore(PictureStore):
    """One compressed .npz a picture, with all outputs of an encoder."""

    suffix = ".npz"

    def files(self, encoder, key, arrays):
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        path = keyed_path(self.folder(encoder), key, self.suffix)
        yield Publication(path, lambda file: file.write(content.getbuffer())), content.tell()
