"""The guide's store of one's own: one module, one YAML, and all that stores do comes with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from encode_process import Ended, run_verb

from latentkit.stores.ledger import read_done

GUIDE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- tested: (.+?) -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL))
ENCODERS = ("encoder=[sd_vae,t5]", "encoders.sd_vae.batch_size=4")
ARGUMENTS = ("--config-dir", "conf", "store=mine", *ENCODERS)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the user's two files."""
    place = tmp_path / "work"
    (place / "conf" / "store").mkdir(parents=True)
    for name in ("mine.py", "conf/store/mine.yaml"):
        (place / name).write_text(FILES[name])
    return place


def run(place: Path, verb: str, *arguments: str) -> Ended:
    return run_verb(verb, *ARGUMENTS, *arguments, cwd=place)


def contents(root: Path) -> dict[str, dict[str, np.ndarray]]:
    """Path under the root -> output -> array."""
    return {
        path.relative_to(root).as_posix(): dict(np.load(path, allow_pickle=False))
        for path in sorted(root.rglob("*.npz"))
    }


def test_a_store_of_one_s_own_is_written_resumed_and_repaired(place: Path) -> None:
    root = place / "outputs" / "demo"
    first = run(place, "encode", "limit=5")
    assert first.returncode == 0, first.stderr
    some = contents(root)
    assert len(some) == 10
    assert not list(root.rglob("*.npy"))
    rest = run(place, "encode", "limit=8")
    assert rest.returncode == 0, rest.stderr
    assert "sd_vae: 3 to encode" in rest.stderr
    stored = contents(root)
    assert len(stored) == 16
    for name, arrays in some.items():
        for output, array in arrays.items():
            np.testing.assert_array_equal(stored[name][output], array)
    lost = next(path for path in stored if path.startswith("sd_vae/"))
    root.joinpath(lost).write_bytes(b"cut")
    again = run(place, "encode", "limit=8")
    assert again.returncode == 0, again.stderr
    assert "sd_vae: 1 to encode" in again.stderr
    np.testing.assert_array_equal(contents(root)[lost]["latents"], stored[lost]["latents"])
    sizes = {key: (root / "sd_vae" / f"{key}.npz").stat().st_size for key in read_done(root, "sd_vae")}
    assert {key: done.bytes for key, done in read_done(root, "sd_vae").items()} == sizes
    records = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    assert [record["encoders"] for record in records] == [["sd_vae", "t5"]] * 8


def test_it_holds_what_a_store_of_npy_files_holds(place: Path) -> None:
    assert run(place, "encode", "limit=3").returncode == 0
    ended = run_verb(
        "encode",
        *ENCODERS,
        "limit=3",
        "store=npy",
        "output_dir=outputs/npy",
        cwd=place,
    )
    assert ended.returncode == 0, ended.stderr
    for name, arrays in contents(place / "outputs" / "demo").items():
        output = "latents" if name.startswith("sd_vae/") else "hidden"
        expected = np.load(place / "outputs" / "npy" / Path(name).with_suffix(".npy"), allow_pickle=False)
        np.testing.assert_array_equal(arrays[output], expected)


def test_another_contract_is_refused_and_overwriting_replaces_all(place: Path) -> None:
    root = place / "outputs" / "demo"
    assert run(place, "encode", "limit=3").returncode == 0
    other = run(place, "encode", "limit=3", "weights.seed=7")
    assert other.returncode == 1
    assert "weights: there random:0, asked random:7" in other.stderr
    before = contents(root)
    other = run(place, "encode", "weights.seed=7", "overwrite=true")
    assert other.returncode == 0, other.stderr
    after = contents(root)
    assert after.keys() > before.keys()
    assert all(
        (after[name]["latents"] != before[name]["latents"]).any() for name in before if "sd_vae" in name
    )


def test_verify_says_that_it_knows_nothing_of_it(place: Path) -> None:
    assert run(place, "encode", "limit=3").returncode == 0
    ended = run_verb("verify", "--config-dir", "conf", "store=mine", "dataset=demo", cwd=place)
    assert ended.returncode == 2, ended.stderr
    assert "verify works on store=npy and store=shards" in ended.stderr
