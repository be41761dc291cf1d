"""The trial encoder's numbers are Pillow's and numpy's."""

from pathlib import Path

import numpy as np
from encode_process import run_here
from PIL import Image
from recipes import photo


def test_it_stores_mean_and_deviation_of_each_colour(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo(1, 96, 128)).save(tmp_path / "photos/a.png")
    folder = ("dataset=folder", "dataset.root=photos", "output_dir=out", "workers=0")
    ended = run_here("encode", *folder, "encoder=colours", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    image = Image.open(tmp_path / "photos/a.png").resize((64, 64), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float64) / 255
    expected = [*pixels.mean((0, 1)), *pixels.std((0, 1))]
    np.testing.assert_allclose(np.load(tmp_path / "out/colours/a.npy"), expected, atol=1e-6)
