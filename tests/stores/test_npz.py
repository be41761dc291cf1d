"""The trial store holds what a store of .npy files holds."""

from pathlib import Path

import numpy as np
from encode_process import run_here


def test_it_holds_what_npy_holds(tmp_path: Path) -> None:
    words = ("encoder=sd_vae", "limit=2", "encoders.sd_vae.size=32", "workers=0")
    for store in ("npz", "npy"):
        ended = run_here("encode", *words, f"store={store}", f"output_dir={store}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    names = [path.stem for path in (tmp_path / "npy/sd_vae").glob("*.npy")]
    assert len(names) == 2
    for name in names:
        latents = np.load(tmp_path / f"npz/sd_vae/{name}.npz")["latents"]
        assert np.array_equal(latents, np.load(tmp_path / f"npy/sd_vae/{name}.npy"))
