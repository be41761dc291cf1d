"""The trial source gives the pictures of a zip archive."""

import zipfile
from pathlib import Path

import numpy as np
from encode_process import run_here
from PIL import Image
from recipes import photo


def test_its_pictures_are_encoded_under_their_names(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("b", "trees/a"):
            Image.fromarray(photo(len(name), 48, 64)).save(tmp_path / "picture.jpg")
            archive.write(tmp_path / "picture.jpg", f"{name}.jpg")
    words = ("dataset=archive", "dataset.root=photos.zip", "encoder=sd_vae", "weights=random", "workers=0")
    ended = run_here("encode", *words, "encoders.sd_vae.size=32", "output_dir=out", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for name in ("b", "trees/a"):
        assert np.load(tmp_path / f"out/sd_vae/{name}.npy").shape == (4, 4, 4)
