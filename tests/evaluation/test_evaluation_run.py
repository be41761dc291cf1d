"""The loop: every picture once into every metric, whatever its memory, interruptions and processes do."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from toy_evaluation import (
    Difference,
    MeanColour,
    ToySet,
    WeightedMean,
    photos,
    weighted_sum,
)

from latentkit.encoders import LatentDecoder, Pretrained, Random
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.picture_set import LatentSpace
from latentkit.evaluation.references import Reference
from latentkit.evaluation.run import EvaluationResult, evaluate_sets, gallery_places
from latentkit.evaluation.step import EvaluationStep, PictureBatch, PictureBatches

CPU = partial(pl.Trainer, accelerator="cpu", devices=1)
DECODER = LatentDecoder(model="none", weights=Random(), batch_size=4)


def evaluate(generated: ToySet, metrics: dict[str, Any], **options: Any) -> EvaluationResult:
    """Beside the reference's pictures there may be `statistics` of it, and `keep`, told what is found out."""
    extractors = options.pop("extractors", [MeanColour()])
    decoder = options.pop("decoder", DECODER)
    pictures, statistics = options.pop("reference", None), options.pop("statistics", {})
    keep = options.pop("keep", None)
    if pictures is not None or statistics:
        known = Reference(name="reference", pictures=pictures, identity={}, statistics=statistics)
        options["reference"] = known
        if keep is not None:
            known.keep = keep
    settings = {"batch_size": 4, "workers": 0, "console": Console(quiet=True)} | options
    return evaluate_sets(generated, metrics, extractors, decoder, CPU, **settings)


def latents(count: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 4, 2, 2)).astype(np.float16)


def decoded(stored: np.ndarray, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """uint8, one at a time, by the network alone."""
    network = DECODER.load()
    with torch.inference_mode():
        return np.concatenate(
            [network(torch.from_numpy(z[None]), factor, shift)["pixels"].numpy() for z in stored]
        )


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_every_picture_of_both_sides_counts_once(batch_size: int) -> None:
    ours, theirs = photos(11), photos(7, first=50)
    generated, reference = ToySet(ours), ToySet(theirs, name="reference")
    result = evaluate(generated, {"toy": WeightedMean()}, reference=reference, batch_size=batch_size)
    expected = np.linalg.norm(weighted_sum(ours) - weighted_sum(theirs))
    assert result.values["toy"]["distance"] == pytest.approx(expected, rel=1e-6)
    assert (result.values["toy"]["generated"], result.values["toy"]["reference"]) == (11, 7)
    assert generated.calls == list(range(11))
    assert {side: took.pictures.total() for side, took in result.passes.items()} == {
        "reference": 7,
        "generated": 11,
    }
    assert not result.interrupted


def test_statistics_of_the_reference_save_its_pass() -> None:
    reference = ToySet(photos(7, first=50), name="reference")
    kept: list[dict[str, np.ndarray]] = []
    looked = evaluate(ToySet(photos(5)), {"toy": WeightedMean()}, reference=reference, keep=kept.append)
    assert set(kept[0]) == {"toy_sum", "toy_count", "picture_size", "count"}
    assert kept[0]["picture_size"].tolist() == [16, 16]
    assert kept[0]["count"] == 7
    assert looked.sizes == {"generated": (16, 16), "reference": (16, 16)}
    assert kept[0]["toy_sum"] == pytest.approx(weighted_sum(photos(7, first=50)), rel=1e-6)
    reference.calls.clear()
    again = evaluate(ToySet(photos(5)), {"toy": WeightedMean()}, reference=reference, statistics=kept[0])
    assert again.values == looked.values
    assert reference.calls == []
    assert set(again.passes) == set(again.sizes) == {"generated"}
    assert len(kept) == 1


class Failing(WeightedMean):
    """Cannot be computed of what it has seen."""

    def compute(self) -> dict[str, float]:
        raise LatentkitError("nothing comes of it")


def test_one_metric_that_fails_does_not_take_the_others_with_it() -> None:
    options: dict[str, Any] = {"statistics": zero_reference()}
    result = evaluate(ToySet(photos(5)), {"bad": Failing(), "toy": WeightedMean()}, **options)
    assert result.failures == {"bad": "nothing comes of it"}
    alone = evaluate(ToySet(photos(5)), {"toy": WeightedMean()}, **options)
    assert result.values == alone.values


class OfSeveralSizes(ToySet):
    """Its last picture is smaller than the others."""

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        *whole, last = super().rows(positions, workers)
        yield from [*whole, last[:8]]


class LackingBatches(PictureBatches):
    """The last batch of the reference does not come."""

    def __iter__(self) -> Iterator[PictureBatch]:
        *whole, last = super().__iter__()
        yield from whole if self.pictures.name == "reference" else [*whole, last]


def test_a_reference_of_several_sizes_has_none() -> None:
    reference = OfSeveralSizes(photos(9), name="reference")
    kept: list[dict[str, np.ndarray]] = []
    options: dict[str, Any] = {"reference": reference, "keep": kept.append}
    result = evaluate(ToySet(photos(5)), {"toy": WeightedMean()}, **options)
    assert result.sizes == {"generated": (16, 16), "reference": None}
    assert kept[0]["picture_size"].tolist() == [0, 0]


def test_statistics_of_a_part_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentkit.evaluation.run.PictureBatches", LackingBatches)
    reference = ToySet(photos(9), name="reference")
    kept: list[dict[str, np.ndarray]] = []
    options: dict[str, Any] = {"reference": reference, "keep": kept.append}
    with pytest.raises(LatentkitError, match="8 pictures came of 9"):
        evaluate(ToySet(photos(5)), {"toy": WeightedMean()}, **options)
    assert kept == []


def test_originals_beside_the_pictures_are_a_reference_in_the_same_pass() -> None:
    stored, originals = latents(11), photos(11, first=50)
    generated = ToySet(latents=stored, space=LatentSpace(4), originals=originals)
    never = ToySet(originals, name="the originals")
    kept: list[dict[str, np.ndarray]] = []
    options: dict[str, Any] = {"reference": never, "keep": kept.append}
    result = evaluate(generated, {"toy": WeightedMean()}, by_originals=True, **options)
    expected = np.linalg.norm(weighted_sum(decoded(stored)) - weighted_sum(originals))
    assert result.values["toy"]["distance"] == pytest.approx(expected, rel=1e-3)
    assert kept[0]["toy_sum"] == pytest.approx(weighted_sum(originals), rel=1e-6)
    assert kept[0]["picture_size"].tolist() == [16, 16]
    assert never.calls == []
    assert generated.calls == list(range(11))


def test_latents_are_decoded_at_the_models_scale_and_metrics_see_the_pictures() -> None:
    stored = latents(6)
    generated = ToySet(latents=stored, space=LatentSpace(4, scale=0.5, shift=0.25))
    result = evaluate(generated, {"toy": WeightedMean()}, statistics=zero_reference())
    pictures = decoded(stored, 0.5, 0.25)
    assert pictures.std() > 5
    expected = np.linalg.norm(weighted_sum(pictures))
    assert result.values["toy"]["distance"] == pytest.approx(expected, rel=1e-4)


def zero_reference() -> dict[str, np.ndarray]:
    return {"toy_sum": np.zeros(3), "toy_count": np.array(1)}


def test_a_network_runs_once_a_batch_and_only_where_a_feature_is_wanted() -> None:
    step = EvaluationStep([MeanColour(), Unwanted(name="other")], None)
    pictures = ToySet(photos(8))
    batches = PictureBatches(pictures, np.arange(8), 4)
    step.begin_pass(batches, {"mean.rgb", "pixels"})
    step.setup("predict")
    for batch in batches:
        step(batch)
    assert {name: forward.network.network.seen for name, forward in step.networks.items()} == {"mean": [4, 4]}


class Unwanted(MeanColour):
    """Gives a feature that no metric reads."""

    outputs: ClassVar[dict[str, Any]] = {"unwanted": {"shape": [3], "dtype": "float32"}}


def test_latents_run_in_whole_batches_and_padding_never_counts() -> None:
    pictures = ToySet(latents=latents(6), space=LatentSpace(4), originals=photos(6))
    step = EvaluationStep([MeanColour()], DECODER)
    batches = PictureBatches(pictures, np.arange(6), 4, originals=True)
    step.begin_pass(batches, {"mean.rgb"}, by_originals=True)
    step.setup("predict")
    with torch.inference_mode():
        results = [step(batch) for batch in batches]
    assert [result.positions.tolist() for result in results] == [[0, 1, 2, 3], [4, 5]]
    assert step.networks["mean"].network.network.seen == [4] * 4
    for result in results:
        count = len(result.positions)
        tensors = [*result.features.values(), *result.of_originals.values()]
        assert [len(tensor) for tensor in tensors] == [count] * 4
    pixels = torch.cat([result.features["pixels"] for result in results]).numpy()
    assert np.abs(pixels.astype(int) - decoded(latents(6))).max() <= 1


@pytest.mark.parametrize(
    ("of_latents", "fits", "found"), [(True, 3, 2), (False, 3, 2), (False, 1, 1), (False, 4, 4)]
)
def test_out_of_memory_halves_the_batch_and_loses_nothing(of_latents: bool, fits: int, found: int) -> None:
    generated = ToySet(latents=latents(10), space=LatentSpace(4)) if of_latents else ToySet(photos(10))
    metrics = {"toy": WeightedMean()}
    whole = evaluate(generated, metrics, statistics=zero_reference())
    extractor = MeanColour(fits=fits)
    network = extractor.load()
    object.__setattr__(extractor, "load", lambda: network)
    halved = evaluate(generated, {"toy": WeightedMean()}, statistics=zero_reference(), extractors=[extractor])
    assert max(size for size in network.seen if size <= fits) == found
    assert halved.values["toy"]["generated"] == 10
    assert halved.values["toy"]["distance"] == pytest.approx(whole.values["toy"]["distance"], rel=1e-4)


def test_what_does_not_fit_alone_is_named() -> None:
    with pytest.raises(LatentkitError, match=r"memory, even alone: k00000, k00001, k00002 and 1 more"):
        evaluate(
            ToySet(photos(10)),
            {"toy": WeightedMean()},
            statistics=zero_reference(),
            extractors=[MeanColour(fits=0)],
        )


def test_an_overflow_in_half_precision_is_computed_again_in_float32() -> None:
    bright = np.full((1, 16, 16, 3), 250, np.uint8)
    dark = np.full((1, 16, 16, 3), 20, np.uint8)
    generated = ToySet(np.concatenate([dark, bright, dark, dark, bright]))
    result = evaluate(
        generated,
        {"toy": WeightedMean()},
        statistics=zero_reference(),
        extractors=[MeanColour(precision="16-mixed", gain=393.0)],  # 98,250 does not fit into float16
    )
    expected = 393 * np.linalg.norm(weighted_sum(np.stack([*generated.rows(np.arange(5), 0)])))
    assert result.values["toy"]["distance"] == pytest.approx(expected, rel=1e-3)


def test_a_picture_that_is_not_finite_in_float32_either_is_named(sd_folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(sd_folder)
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("nan"))
    vae.save_pretrained(tmp_path)
    decoder = LatentDecoder(model=str(tmp_path), weights=Pretrained(), batch_size=4)
    with pytest.raises(
        LatentkitError, match=r"toy: .* not finite, .* float32: k00000, k00001, k00002 and 1 more"
    ):
        evaluate(
            ToySet(latents=latents(6), space=LatentSpace(4)),
            {"toy": WeightedMean()},
            statistics=zero_reference(),
            decoder=decoder,
        )


def test_other_errors_of_a_network_end_the_run() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluate(ToySet(photos(3)[..., :2]), {"toy": WeightedMean()}, statistics=zero_reference())


def test_a_metric_without_its_reference_originals_or_features_is_a_usage_error() -> None:
    pictures = ToySet(photos(3))
    with pytest.raises(UsageError, match=r"^toy: no reference"):
        evaluate(pictures, {"toy": WeightedMean()})
    with pytest.raises(UsageError, match=r"^pairs: toy has no originals"):
        evaluate(pictures, {"pairs": Difference()})
    with pytest.raises(UsageError, match=r"^metric=toy reads mean.rgb, which no extractor gives"):
        evaluate(pictures, {"toy": WeightedMean()}, extractors=[])


def test_reconstructions_are_compared_and_the_worst_and_best_shown() -> None:
    stored = latents(20)
    pictures = decoded(stored)
    levels = np.random.default_rng(0).permutation(20) + 1
    originals = np.clip(pictures.astype(int) + levels[:, None, None, None], 0, 255).astype(np.uint8)
    generated = ToySet(latents=stored, space=LatentSpace(4), originals=originals)
    result = evaluate(generated, {"pairs": Difference()})
    errors = (pictures.astype(float) - originals).reshape(20, -1) ** 2
    assert result.values["pairs"]["mse"] == pytest.approx(errors.mean(), rel=1e-2)
    order = np.argsort(-levels)
    for name, places in (("worst", order[:6]), ("median", order[7:13]), ("best", order[-6:])):
        row = result.gallery[name]
        assert [shown.key for shown in row] == [f"k{place:05d}" for place in places]
        for shown, place in zip(row, places, strict=True):
            assert np.array_equal(shown.original, originals[place])
            assert np.abs(shown.decoded.astype(int) - pictures[place]).max() <= 1
            assert shown.psnr == pytest.approx(10 * np.log10(255**2 / errors[place].mean()), abs=0.5)


def test_the_worst_the_median_and_the_best_of_many_and_of_few() -> None:
    psnr = np.random.default_rng(1).normal(25, 4, 20_000)
    found = gallery_places(psnr, 3)
    order = np.argsort(psnr)
    assert found["worst"].tolist() == order[:3].tolist()
    assert found["best"].tolist() == order[-3:].tolist()
    assert np.median(psnr[found["median"]]) == pytest.approx(np.median(psnr), abs=1e-2)
    assert {name: row.tolist() for name, row in gallery_places(np.array([2.0, 1.0, 1.0]), 6).items()} == {
        name: [1, 2, 0] for name in ("worst", "median", "best")
    }


def test_images_are_saved_by_key_as_they_were_decoded(tmp_path: Path) -> None:
    stored = latents(9)
    generated = ToySet(latents=stored, space=LatentSpace(4))
    generated.keys = [f"val/p{number} [{number}]" for number in range(9)]
    evaluate(generated, {"toy": WeightedMean()}, statistics=zero_reference(), images=tmp_path / "images")
    files = sorted(path for path in (tmp_path / "images").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path / "images")) for path in files] == [
        f"{key}.png" for key in generated.keys
    ]
    for path, picture in zip(files, decoded(stored), strict=True):
        with Image.open(path) as image:
            saved = np.asarray(image)
        assert image.format == "PNG"
        assert np.abs(saved.astype(int) - picture).max() <= 1
        assert (saved != picture).mean() < 1e-2


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file where the folder would be")
    with pytest.raises(LatentkitError, match="cannot write"):
        evaluate(
            ToySet(photos(9)),
            {"toy": WeightedMean()},
            statistics=zero_reference(),
            images=tmp_path / "images",
        )


def test_ctrl_c_ends_after_the_batch_in_hand_with_nothing_computed() -> None:
    generated = ToySet(photos(400), seconds=0.005)

    def interrupt() -> None:
        while len(generated.calls) < 12:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = evaluate(generated, {"toy": WeightedMean()}, statistics=zero_reference())
    thread.join()
    assert result.interrupted
    assert result.values == {}
    assert 0 < result.passes["generated"].pictures["generated"] < 400
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interruption_in_the_references_pass_keeps_no_statistics() -> None:
    reference = SignallingSet(photos(400), name="reference")
    generated = ToySet(photos(5))
    kept: list[dict[str, np.ndarray]] = []
    result = evaluate(generated, {"toy": WeightedMean()}, reference=reference, keep=kept.append)
    assert result.interrupted
    assert generated.calls == kept == []
    assert 20 <= len(reference.calls) < 400


class SignallingSet(ToySet):
    """Its 20th picture comes with a SIGTERM to this process."""

    def rows(self, positions: np.ndarray, workers: int) -> Iterator[np.ndarray]:
        for row in super().rows(positions, workers):
            if len(self.calls) == 20:
                os.kill(os.getpid(), signal.SIGTERM)
            yield row


def test_the_decoders_batch_size_is_the_runs() -> None:
    generated = ToySet(latents=latents(5), space=LatentSpace(4))
    decoder = dataclasses.replace(DECODER, batch_size=2)
    network = CountingDecoder(DECODER.load())
    object.__setattr__(decoder, "load", lambda: network)
    evaluate(generated, {"toy": WeightedMean()}, statistics=zero_reference(), decoder=decoder)
    assert network.seen == [2, 2, 2]
    assert generated.calls == [0, 1, 2, 3, 4]


class CountingDecoder(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[int] = []

    def forward(self, latents: torch.Tensor, **settings: float) -> dict[str, torch.Tensor]:
        self.seen.append(len(latents))
        decoded: dict[str, torch.Tensor] = self.network(latents, **settings)
        return decoded
