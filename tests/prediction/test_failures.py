"""max_failures: a share of the collection, counted in pictures, the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import encode, todo
from toy_encoders import LogColour, MeanColour, paint, paint_plain

from latentkit.prediction.results import Failure, FailureLimit, TooManyFailuresError
from latentkit.sources import FolderSource
from latentkit.stores import Quarantine


def failure(key: str, encoder: str = "mean") -> Failure:
    return Failure(0, key, "decode", "not a JPEG", (encoder,), None)


@pytest.mark.parametrize(
    ("collection", "share", "allowed"),
    [
        (100, 0.01, 1),
        (100, 0.05, 5),
        (10, 0.01, 0),
        (10, 0.0, 0),
        (199, 0.01, 1),
        (3, 1.0, 3),
        (100, 0.29, 29),
    ],
)
def test_the_share_is_of_the_collection(collection: int, share: float, allowed: int) -> None:
    recorded: list[Failure] = []
    limit = FailureLimit(recorded.append, collection, share)
    for number in range(allowed):
        limit(failure(f"k{number}"))
    if allowed < collection:
        with pytest.raises(TooManyFailuresError, match=f"{allowed + 1} of {collection} .* last: one more"):
            limit(failure("one more"))
        assert recorded[-1].key == "one more"  # the picture that stops the run is in the ledger too


def test_a_picture_that_fails_for_two_encoders_counts_once() -> None:
    recorded: list[Failure] = []
    limit = FailureLimit(recorded.append, 10, 0.2)
    for key in ("a", "b"):
        limit(failure(key, "mean"))
        limit(failure(key, "log"))
    assert len(recorded) == 4
    with pytest.raises(TooManyFailuresError):
        limit(failure("c"))


@pytest.fixture
def bad(tmp_path: Path) -> FolderSource:
    """20 pictures, of which 3, 8, 13 and 17 do not decode."""
    folder = paint(tmp_path / "in", 20)
    for index in (3, 8, 13, 17):
        (folder / f"p{index:03d}.png").write_bytes(b"no picture %d" % index)
    return FolderSource(root=str(folder))


def test_a_run_goes_on_until_the_share_is_passed(tmp_path: Path, bad: FolderSource) -> None:
    encoders = [MeanColour(batch_size=2)]
    with pytest.raises(TooManyFailuresError, match=r"3 of 20 .*max_failures=0.1 .*p013.*quarantine.jsonl"):
        encode(tmp_path / "out", bad, encoders, max_failures=0.1)
    assert set(Quarantine.read(tmp_path / "out").held("mean")) == {"p003", "p008", "p013"}
    assert encode(tmp_path / "out", bad, encoders, max_failures=0.2).todo > 0
    assert set(Quarantine.read(tmp_path / "out").held("mean")) == {"p003", "p008", "p013", "p017"}
    assert {path.stem for path in (tmp_path / "out" / "mean").glob("*.npy")} == {
        f"p{index:03d}" for index in range(20) if index not in (3, 8, 13, 17)
    }


def test_a_resumed_run_stops_where_it_stopped(tmp_path: Path, bad: FolderSource) -> None:
    for _ in range(2):
        with pytest.raises(TooManyFailuresError, match="of 20 pictures failed"):
            encode(tmp_path / "out", bad, [MeanColour(batch_size=2)], max_failures=0.1)
    held = set(Quarantine.read(tmp_path / "out").held("mean"))
    assert "p013" in held


def test_what_one_encoder_holds_is_not_counted_again_for_another(tmp_path: Path, bad: FolderSource) -> None:
    encode(tmp_path / "out", bad, [MeanColour(name="first")], max_failures=0.2)
    both = [MeanColour(name="first"), MeanColour(name="second", size=8)]
    encode(tmp_path / "out", bad, both, max_failures=0.2)
    assert len(Quarantine.read(tmp_path / "out").held("second")) == 4
    assert not any(todo(encode(tmp_path / "out", bad, both, max_failures=0.2)).values())


def test_pictures_held_for_different_encoders_all_count(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", 20)
    paint_plain(folder / "p001.png", 0)  # bad for log alone
    (folder / "p002.txt").write_text("")
    (folder / "p005.png").write_bytes(b"no picture")
    source = FolderSource(root=str(folder))
    encode(tmp_path / "out", source, [MeanColour()], max_failures=0.1)  # holds 5
    log = LogColour(name="log")
    with pytest.raises(TooManyFailuresError, match="2 of 20"):
        encode(tmp_path / "out", source, [MeanColour(), log], max_failures=0.05)  # 5 and 1
