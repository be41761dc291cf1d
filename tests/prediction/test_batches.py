"""Batches: the right pictures in the right order, each read once, in this process or in workers."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import Collected, run_into, stream, through_step, units, whole_plan
from toy_encoders import CaptionBytes, CountedFolder, MeanColour, WorkerKiller, expected_mean, paint

from latentkit.errors import LatentkitError
from latentkit.pixels import BucketCrop
from latentkit.prediction.encoding import EncodingStep, StoreSink
from latentkit.prediction.loop import Pass
from latentkit.prediction.results import Failure
from latentkit.sources import FolderSource

BUCKETS = ("32x32", "24x48", "48x24")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("painted"), 40)


def counted(folder: Path, tmp_path: Path, **options: float) -> CountedFolder:
    return CountedFolder(root=str(folder), log=str(tmp_path / "reads"), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_each_units_pictures_in_order_and_never_cross_units(folder: Path, workers: int) -> None:
    source = FolderSource(root=str(folder))
    small, large = MeanColour(name="small", batch_size=3), MeanColour(name="large", size=24, batch_size=7)
    work = {"small": [range(0, 10), [], range(20, 25)], "large": [range(5, 15), range(15, 20), [21, 24, 39]]}
    batches = list(
        stream(
            source,
            [(small, units(*work["small"])), (large, units(*work["large"]))],
            workers=workers,
        )
    )
    for encoder in (small, large):
        found = [batch.indices for batch in batches if batch.encoder == encoder.name]
        size = encoder.batch_size
        assert found == [
            list(part[start : start + size])
            for part in work[encoder.name]
            for start in range(0, len(part), size)
        ]


def test_a_batch_says_of_each_picture_what_it_is_and_what_its_bytes_were(folder: Path) -> None:
    source = FolderSource(root=str(folder))
    encoder = MeanColour(batch_size=4)
    for batch in stream(source, [(encoder, units(range(6)))]):
        assert batch.keys == [f"p{index:03d}" for index in batch.indices]
        assert batch.facts == [{"width": 24, "height": 20}] * len(batch.indices)
        for row, key in enumerate(batch.keys):
            path = folder / f"{key}.png"
            assert batch.sources[row].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
            stat = batch.sources[row].stat
            assert stat is not None
            assert (stat.size, stat.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
            pixels = batch.tensors["pixels"][row]
            assert pixels.dtype == torch.uint8
            mean = pixels.double().mean((0, 1)).numpy().astype(np.float32)
            assert np.array_equal(mean, expected_mean(path, encoder))


def test_the_networks_batches_are_whole_also_at_the_end_of_a_unit(folder: Path) -> None:
    source = FolderSource(root=str(folder))
    encoder = MeanColour(batch_size=4)
    batches = list(stream(source, [(encoder, units(range(5), range(5, 7)))]))
    assert [len(batch.keys) for batch in batches] == [4, 1, 2]
    assert [len(batch.tensors["pixels"]) for batch in batches] == [4, 1, 2]
    step = EncodingStep([encoder], Collected().fail)
    through_step(step, batches, Collected())
    assert step.networks["mean"].network.seen == [4, 4, 4]


def test_padding_never_reaches_the_results(folder: Path) -> None:
    source = FolderSource(root=str(folder))
    encoder = MeanColour(batch_size=8)
    sink = Collected()
    step = EncodingStep([encoder], sink.fail)
    through_step(step, stream(source, [(encoder, units(range(11), [12]))]), sink)
    assert sink.keys("mean") == [f"p{index:03d}" for index in [*range(11), 12]]
    assert all(len(part.arrays["mean"]) == len(part.keys) for part in sink.encoded)
    for key, arrays in sink.arrays("mean").items():
        assert np.array_equal(arrays["mean"], expected_mean(folder / f"{key}.png", encoder))


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_of_several_shapes_go_to_batches_of_one_shape(tmp_path: Path, workers: int) -> None:
    folder = paint(tmp_path / "mixed", 30, [(40, 40), (30, 70), (90, 40), (41, 44)])
    source = FolderSource(root=str(folder))
    bucketed = MeanColour(name="bucketed", buckets=BUCKETS, batch_size=3)
    square = MeanColour(name="square", batch_size=4)
    parts = [range(0, 17), range(17, 30)]
    batches = list(stream(source, [(bucketed, units(*parts)), (square, units(*parts))], workers=workers))

    crop = BucketCrop(buckets=BUCKETS)
    shape_of = {}
    for index in range(30):
        with Image.open(folder / f"p{index:03d}.png") as image:
            shape_of[index] = crop.shape(*image.size)
    assert len(set(shape_of.values())) == 3
    found = [batch for batch in batches if batch.encoder == "bucketed"]
    for number, part in enumerate(parts):
        for shape in set(shape_of.values()):
            wanted = [index for index in part if shape_of[index] == shape]
            mine = [
                batch.indices
                for batch in found
                if tuple(batch.tensors["pixels"].shape[1:3]) == shape and batch.indices[0] in part
            ]
            assert mine == [wanted[start : start + 3] for start in range(0, len(wanted), 3)], (number, shape)
    assert all(len(batch.tensors["pixels"]) == len(batch.keys) for batch in found)
    assert sorted(index for batch in found for index in batch.indices) == list(range(30))
    facts = {index: fact for batch in found for index, fact in zip(batch.indices, batch.facts, strict=True)}
    assert {index: fact["aspect_bucket"] for index, fact in facts.items()} == {
        index: f"{width}x{height}" for index, (height, width) in shape_of.items()
    }
    of_square = [batch.indices for batch in batches if batch.encoder == "square"]
    assert of_square == [list(part[start : start + 4]) for part in parts for start in range(0, len(part), 4)]


@pytest.mark.parametrize(("resident", "each"), [("all", 1), ("one", 2)])
def test_every_picture_is_read_once_a_pass(folder: Path, tmp_path: Path, resident: str, each: int) -> None:
    source = counted(folder, tmp_path)
    encoders = [
        MeanColour(name="small", batch_size=3),
        MeanColour(name="large", size=24, batch_size=7),
        CaptionBytes(),
    ]
    sink = Collected()
    run_into(sink, source, encoders, whole_plan(source, encoders, tmp_path), resident=resident, workers=2)
    keys = [f"p{index:03d}" for index in range(40)]
    assert source.reads() == sorted(keys * each)
    for encoder in encoders:
        assert sorted(sink.keys(encoder.name)) == keys


def test_no_picture_is_read_for_captions(folder: Path, tmp_path: Path) -> None:
    source = counted(folder, tmp_path)
    sink = Collected()
    encoders = [CaptionBytes(batch_size=16)]
    run_into(sink, source, encoders, whole_plan(source, encoders, tmp_path), workers=2)
    assert source.reads() == []
    expected = {f"p{i:03d}": f"picture number {i}".encode().ljust(32, b"\0") for i in range(40)}
    assert {key: value["bytes"].tobytes() for key, value in sink.arrays("bytes").items()} == expected
    digest = hashlib.sha256(b"picture number 0").hexdigest()
    assert sink.encoded[0].sources[0].sha256 == digest


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_are_failures_with_their_stage_and_all_that_wanted_them(
    tmp_path: Path, workers: int
) -> None:
    folder = paint(tmp_path / "some-bad", 12)
    source = FolderSource(root=str(folder))
    (folder / "p002.png").write_bytes(b"<html>not found</html>")
    whole = (folder / "p003.png").read_bytes()
    (folder / "p003.png").write_bytes(whole[: len(whole) // 2])
    (folder / "p005.png").write_bytes(b"")
    (folder / "p007.png").unlink()
    small, large = MeanColour(name="small", batch_size=5), MeanColour(name="large", size=24, batch_size=5)
    failures: list[Failure] = []
    batches = list(
        stream(
            source,
            [(small, units(range(12))), (large, units(range(5)))],
            workers=workers,
            fail=failures.append,
        )
    )
    found = {failure.key: failure for failure in failures}
    assert len(failures) == 4
    assert {key: (f.index, f.stage, f.encoders) for key, f in found.items()} == {
        "p002": (2, "decode", ("small", "large")),
        "p003": (3, "decode", ("small", "large")),
        "p005": (5, "decode", ("small",)),
        "p007": (7, "read", ("small",)),
    }
    assert found["p007"].source is None
    for key in ("p002", "p003", "p005"):
        source_of = found[key].source
        assert source_of is not None
        assert source_of.sha256 == hashlib.sha256((folder / f"{key}.png").read_bytes()).hexdigest()
    assert all(f.reason and "\n" not in f.reason for f in failures)
    assert "<html>" in found["p002"].reason
    assert "p007" in found["p007"].reason
    of_small = [batch.indices for batch in batches if batch.encoder == "small"]
    assert of_small == [[0, 1, 4, 6, 8], [9, 10, 11]]


def test_a_unit_of_bad_pictures_alone_gives_no_batch(tmp_path: Path) -> None:
    folder = paint(tmp_path / "all-bad", 3)
    for index in (0, 1):
        (folder / f"p{index:03d}.png").write_bytes(b"nothing")
    failures: list[Failure] = []
    work = [(MeanColour(), units([0, 1], [2]))]
    batches = list(stream(FolderSource(root=str(folder)), work, fail=failures.append))
    assert [failure.index for failure in failures] == [0, 1]
    assert [batch.indices for batch in batches] == [[2]]


def test_conversions_and_cut_captions_are_noticed_once_a_picture(tmp_path: Path) -> None:
    folder = paint(tmp_path / "kinds", 3)
    Image.new("L", (20, 20), 9).save(folder / "p001.png")
    (folder / "p002.txt").write_text("long " * 20)
    (folder / "p000.png").rename(folder / "p000.JPG")
    notes: Counter[str] = Counter()
    encoders = [MeanColour(name="small"), MeanColour(name="large", size=24), CaptionBytes()]
    work = [(encoder, units(range(3))) for encoder in encoders]
    assert len(list(stream(FolderSource(root=str(folder)), work, notice=notes.update))) == 3
    assert notes == {"greyscale": 1, "caption cut": 1, "png named .JPG": 1}


def test_stop_ends_the_stream_and_its_workers(folder: Path, tmp_path: Path) -> None:
    source = counted(folder, tmp_path, seconds=0.02)
    encoder = MeanColour(batch_size=2)
    batches = stream(source, [(encoder, units(range(40)))], workers=2)
    work = Pass("toy", 40, batches, EncodingStep([encoder], pytest.fail), StoreSink(Collected()), {})
    seen = []
    for batch in work:
        seen.append(batch.indices)
        if len(seen) == 2:
            assert not work.stopped
            work.stopped = True
    assert work.stopped
    assert seen == [[0, 1], [2, 3]]
    assert multiprocessing.active_children() == []


def test_a_dead_decoding_process_ends_the_run_with_one_line(tmp_path: Path) -> None:
    folder = paint(tmp_path / "many", 120, [(8, 8)])
    source = counted(folder, tmp_path, seconds=0.02)
    encoders = [WorkerKiller(batch_size=4)]
    sink = Collected()
    with pytest.raises(LatentkitError, match=r"a decoding process died .*workers=1"):
        run_into(sink, source, encoders, whole_plan(source, encoders, tmp_path), workers=2)
    assert len(set(sink.keys("mean"))) == len(sink.keys("mean")) < 120
