"""The step: out of memory and non-finite numbers cost pictures, never the run, and nothing gets lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import Collected, encode, run_into, stream, through_step, todo, units, whole_plan
from toy_encoders import (
    Brightness,
    LogColour,
    MeanColour,
    SmallMemory,
    expected_mean,
    paint,
    paint_plain,
)

from latentkit.encoders import Encoder
from latentkit.prediction.encoding import EncodingStep
from latentkit.runtime.forward import Forward
from latentkit.sources import FolderSource
from latentkit.stores import Quarantine


def encoded(folder: Path, encoder: Encoder, indices: range) -> tuple[Collected, EncodingStep]:
    """One pass of the step over some pictures of a folder."""
    sink = Collected()
    step = EncodingStep([encoder], sink.fail)
    through_step(step, stream(FolderSource(root=str(folder)), [(encoder, units(indices))]), sink)
    return sink, step


@pytest.mark.parametrize(
    ("batch_size", "fits", "found"), [(8, 3, 2), (8, 8, 8), (7, 3, 3), (5, 1, 1), (6, 5, 3)]
)
def test_out_of_memory_halves_the_batch_and_remembers_what_fits(
    tmp_path: Path, batch_size: int, fits: int, found: int
) -> None:
    folder = paint(tmp_path / "in", 19)
    encoder = SmallMemory(batch_size=batch_size, fits=fits)
    sink, step = encoded(folder, encoder, range(19))
    assert sink.failures == []
    assert sink.keys("mean") == [f"p{index:03d}" for index in range(19)]
    for key, arrays in sink.arrays("mean").items():
        assert np.array_equal(arrays["mean"], expected_mean(folder / f"{key}.png", encoder))
    assert step.batch_sizes == {"mean": found}
    seen = step.networks["mean"].network.seen
    failed = [size for size in seen if size > fits]
    assert seen[: len(failed)] == failed  # it is not tried again
    assert set(seen[len(failed) :]) == {found}  # one size, so the same kernels for every picture


def test_a_halved_run_gives_the_values_of_a_whole_one(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", 13)
    whole, _ = encoded(folder, SmallMemory(batch_size=6, fits=6), range(13))
    halved, _ = encoded(folder, SmallMemory(batch_size=6, fits=2), range(13))
    ours, theirs = halved.arrays("mean"), whole.arrays("mean")
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[key]["mean"], theirs[key]["mean"]) for key in ours)


@pytest.mark.parametrize("black", [[4], [0], [12], [3, 4, 5], list(range(13))])
def test_a_picture_that_does_not_fit_alone_is_quarantined_and_no_other(
    tmp_path: Path, black: list[int]
) -> None:
    folder = paint(tmp_path / "in", 13)
    for index in black:
        paint_plain(folder / f"p{index:03d}.png", 0)
    encoder = SmallMemory(batch_size=4, fits=4)
    sink, step = encoded(folder, encoder, range(13))
    assert [(failure.index, failure.stage, failure.encoders) for failure in sink.failures] == [
        (index, "encode", ("mean",)) for index in black
    ]
    assert all("memory" in failure.reason and failure.source is not None for failure in sink.failures)
    assert sink.keys("mean") == [f"p{index:03d}" for index in range(13) if index not in black]
    for key, arrays in sink.arrays("mean").items():
        assert np.array_equal(arrays["mean"], expected_mean(folder / f"{key}.png", encoder))
    assert step.batch_sizes == {"mean": 1}


def test_other_errors_of_a_network_end_the_run(tmp_path: Path) -> None:
    class Wrong(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"mean": pixels.float() @ torch.ones(5, 5)}

    folder = paint(tmp_path / "in", 3)
    sink = Collected()
    step = EncodingStep([MeanColour()], sink.fail)
    step.networks["mean"] = Forward(Wrong(), "32-true")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        through_step(step, stream(FolderSource(root=str(folder)), [(MeanColour(), units([0]))]), sink)
    assert sink.failures == []


def test_an_overflow_in_half_precision_is_computed_again_in_float32(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", 9)
    for index in (1, 8):
        paint_plain(folder / f"p{index:03d}.png", 250)  # 98,250 does not fit into float16
    paint_plain(folder / "p004.png", 21)
    encoder = Brightness(precision="16-mixed", batch_size=4)
    sink, _ = encoded(folder, encoder, range(9))
    assert sink.failures == []
    assert sink.keys("mean") == [f"p{index:03d}" for index in range(9)]
    arrays = {key: value["mean"] for key, value in sink.arrays("mean").items()}
    for key in ("p001", "p008"):
        assert np.array_equal(arrays[key], [393 * 250] * 3)
    for key, array in arrays.items():
        exact = 393 * expected_mean(folder / f"{key}.png", encoder).astype(np.float64)
        assert np.allclose(array, exact, rtol=2e-3)
    assert np.array_equal(arrays["p004"], [8256] * 3)  # as half precision gave it: 8,253 is not a float16


def test_what_is_not_finite_in_float32_either_is_quarantined_and_never_written(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", 10)
    for index in (0, 5, 9):
        paint_plain(folder / f"p{index:03d}.png", 0)
    source, encoder = FolderSource(root=str(folder)), LogColour(name="log", batch_size=4)
    encode(tmp_path / "out", source, [encoder])
    bad = {"p000", "p005", "p009"}
    held = Quarantine.read(tmp_path / "out").held("log")
    assert set(held) == bad
    assert all(entry.stage == "encode" and "finite" in entry.reason for entry in held.values())
    arrays = {path.stem: np.load(path) for path in (tmp_path / "out" / "log").glob("*.npy")}
    assert set(arrays) == {f"p{index:03d}" for index in range(10)} - bad
    assert all(np.isfinite(array).all() for array in arrays.values())
    with np.errstate(divide="ignore"):
        for key, array in arrays.items():
            assert np.allclose(array, np.log(expected_mean(folder / f"{key}.png", encoder)), rtol=1e-6)


def test_a_picture_bad_for_one_encoder_is_good_for_another(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", 5)
    paint_plain(folder / "p002.png", 0)
    source, encoders = FolderSource(root=str(folder)), [LogColour(name="log"), MeanColour()]
    encode(tmp_path / "out", source, encoders)
    quarantine = Quarantine.read(tmp_path / "out")
    assert set(quarantine.held("log")) == {"p002"}
    assert set(quarantine.held("mean")) == set()
    assert np.array_equal(np.load(tmp_path / "out" / "mean" / "p002.npy"), np.zeros(3, np.float32))
    assert not (tmp_path / "out" / "log" / "p002.npy").exists()


@pytest.mark.parametrize("pictures", [1, 4, 5, 9])
def test_the_step_that_lags_behind_loses_nothing(tmp_path: Path, pictures: int) -> None:
    source = FolderSource(root=str(paint(tmp_path / "in", pictures)))
    encoder = MeanColour(batch_size=4)
    step = EncodingStep([encoder], Collected().fail)
    step.setup("predict")
    batches = list(stream(source, [(encoder, units(range(pictures)))]))
    results = [step(batch) for batch in batches]
    rest = step.drain()
    assert results[0] is None
    assert [result.keys for result in [*results[1:], rest] if result] == [batch.keys for batch in batches]
    assert step.drain() is None


@pytest.mark.parametrize("resident", ["one", "all"])
def test_a_whole_run_writes_every_key_of_every_encoder_once(tmp_path: Path, resident: str) -> None:
    source = FolderSource(root=str(paint(tmp_path / "in", 11)))
    encoders = [MeanColour(name="small", batch_size=3), SmallMemory(name="other", batch_size=5, fits=2)]
    sink = Collected()
    result = run_into(sink, source, encoders, whole_plan(source, encoders, tmp_path), resident=resident)
    for encoder in encoders:
        assert sink.keys(encoder.name) == [f"p{index:03d}" for index in range(11)]
    assert result.encoded == {"small": 11, "other": 11}
    assert result.batch_sizes == {"small": 3, "other": 2}
    assert not result.interrupted


def test_an_empty_unit_list_is_a_plan_with_nothing_to_do(tmp_path: Path) -> None:
    source = FolderSource(root=str(paint(tmp_path / "in", 2)))
    encode(tmp_path / "out", source, [MeanColour()])
    again = encode(tmp_path / "out", source, [MeanColour()])
    assert todo(again) == {"mean": []}
    assert again.encoders[0].done == 2
