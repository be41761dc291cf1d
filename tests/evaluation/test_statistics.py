"""Files of statistics: what is written, what is read, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from statistics_files import moments, same

from latentkit.errors import LatentkitError
from latentkit.evaluation.statistics import publish_statistics, read_statistics


def test_the_bytes_follow_from_the_numbers(tmp_path: Path) -> None:
    identity = {"pictures": {"count": 4}, "extractors": {"inception": {"weights": "6726825d"}}}
    both = moments(0) | moments(1, "_s")
    publish_statistics(tmp_path / "a.npz", both, identity)
    publish_statistics(tmp_path / "b.npz", dict(reversed(both.items())), identity)
    publish_statistics(tmp_path / "c.npz", moments(0), identity)
    publish_statistics(tmp_path / "c.npz", moments(1, "_s"), identity)
    assert len({(tmp_path / f"{name}.npz").read_bytes() for name in "abc"}) == 1
    assert read_statistics(tmp_path / "a.npz")[1] == identity
    publish_statistics(tmp_path / "a.npz", moments(2), identity | {"pictures": {"count": 5}})
    same(read_statistics(tmp_path / "a.npz")[0], moments(2))
    assert len(list(tmp_path.iterdir())) == 3


def test_what_are_no_statistics(tmp_path: Path) -> None:
    good = moments(0)
    wrong = {
        "shape": ({"mu": good["mu"], "sigma": good["sigma"][:4]}, r"mu is \[6\] and sigma is \[4, 6\]"),
        "alone": ({"mu": good["mu"]}, "it has mu and no sigma"),
        "mean": ({"sigma_s": good["sigma"], **good}, "it has sigma_s and no mu_s"),
        "nan": (good | {"mu": good["mu"] * np.nan}, "mu is not finite"),
        "skew": (good | {"sigma": np.triu(good["sigma"])}, "sigma is not symmetric"),
        "negative": (good | {"sigma": -good["sigma"]}, "negative variance"),
        "object": (good | {"mu": np.array([{}] * 6, dtype=object)}, "allow_pickle"),
        "text": (good | {"note": np.array("hello")}, "note is <U5, not numbers"),
        "identity": (good | {"identity": np.array("[1]")}, "its identity has no pictures and extractors"),
        "nothing": (good | {"identity": np.array("{}")}, "its identity has no pictures and extractors"),
        "null": (good | {"identity": np.array("null")}, "its identity has no pictures and extractors"),
        "sizes": (good | {"picture_size": np.array([[8, 8]])}, r"int64 \[\[8, 8\]\], not int64 \[height"),
        "empty": (good | {"picture_size": np.array([8, 0])}, r"picture_size is int64 \[8, 0\]"),
        "many": (good | {"count": np.array([4, 5])}, r"count is int64 \[4, 5\], not the number of pictures"),
        "none": (good | {"count": np.array(0)}, "count is int64 0, not"),
        "part": (good | {"count": np.array(4.5)}, "count is float64 4.5, not"),
        "half": (good | {"picture_size": np.array([8.5, 8])}, "picture_size is float64"),
    }
    for name, (arrays, told) in wrong.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(LatentkitError, match=f"{name}.npz cannot be used as statistics: .*{told}"):
            read_statistics(tmp_path / f"{name}.npz")
    with pytest.raises(LatentkitError, match="mu is not finite, it is not written"):
        publish_statistics(tmp_path / "new.npz", {"mu": np.array([np.inf])}, {})
    assert not (tmp_path / "new.npz").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused_or_says_the_same(tmp_path: Path, save: Callable[..., None]) -> None:
    """Each byte of a small file, one at a time; what is told of a broken archive takes many forms."""
    file, good = tmp_path / "val.npz", moments(0, width=2) | {"count": np.array(4)}
    save(file, **good)
    whole, refused = file.read_bytes(), 0
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found, recorded = read_statistics(file, good)
        except LatentkitError:
            refused += 1
        else:
            assert recorded is None
            assert all(np.array_equal(array, good[name]) for name, array in found.items())
    assert refused > len(whole) // 2
    file.write_bytes(whole)
    same(read_statistics(file)[0], good)


def test_a_mean_can_be_had_without_its_covariance(tmp_path: Path) -> None:
    good = moments(0)
    np.savez(tmp_path / "val.npz", **good)
    same(read_statistics(tmp_path / "val.npz", ["mu"])[0], {"mu": good["mu"]})
