"""SIGKILL a whole run at several points; the restarted output equals a clean run's byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from encode_process import encode, files, kill_points, was_killed
from PIL import Image
from recipes import photo

POINTS = 3
"""Kills in a run, for each of two stores; `make torture` kills at every call."""

RUNS_OWN = {"summary.json", "run.json", "rates.json", "lock"}
"""What legitimately differs between two runs: when they ran, how fast, and what the last one found done."""

STORES = {
    "npy": ("encoder=[dinov3,sd_vae,t5]", "encoders.sd_vae.batch_size=2", "encoders.dinov3.batch_size=3"),
    "shards": ("encoder=sd_vae", "store=shards", "shard_size=3", "encoders.sd_vae.batch_size=2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_killed_anywhere_it_goes_on_to_the_same_bytes(store: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "photos").mkdir(parents=True)
    for number in range(7):
        Image.fromarray(photo(number, 64, 80)).save(work / "photos" / f"p{number}.jpg")
        (work / "photos" / f"p{number}.txt").write_text(f"picture {number}")
    (work / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    common = ("dataset=folder", "dataset.root=photos", "weights=random", "max_failures=0.5", "workers=1")
    arguments = (*common, *STORES[store])
    first = encode(*arguments, "output_dir=clean", cwd=work)
    assert first.returncode == 3, first.stderr
    assert first.changes is not None
    assert first.changes > 40
    clean = without_time(files(work / "clean", RUNS_OWN))
    assert len(clean) > 8

    for point in kill_points(first.changes, POINTS):
        out = f"out{point}"
        assert was_killed(encode(*arguments, f"output_dir={out}", cwd=work, kill_at=point), point)
        again = encode(*arguments, f"output_dir={out}", cwd=work)
        assert again.returncode == 3, again.stderr
        assert without_time(files(work / out, RUNS_OWN)) == clean, f"killed at call {point}"


def without_time(tree: dict[str, bytes]) -> dict[str, bytes]:
    """The ledger's `time` is when the picture was found bad, and the configuration names the folder."""
    kept = {name: content for name, content in tree.items() if name != ".latentkit/config.yaml"}
    ledger = kept["quarantine.jsonl"]
    before, _, after = ledger.partition(b'"time": "')
    return kept | {"quarantine.jsonl": before + after.partition(b'"')[2]}
