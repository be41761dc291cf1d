"""What keeps a number from standing beside published ones is said, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from feeding import frechet
from toy_evaluation import Difference

from latentkit.evaluation.comparability import reasons_against
from latentkit.evaluation.metrics import (
    KID,
    EvaluationMetric,
    InceptionScore,
    PrecisionRecall,
)

USUAL: dict[str, Any] = {
    "pictures": 50_000,
    "expected": 50_000,
    "limited": False,
    "random": (),
    "extractors": {"inception": "32-true"},
    "reference_pictures": 50_000,
    "decoder": "16-mixed",
    "by_hand": (),
    "sizes": {"generated": (256, 256), "reference": (256, 256)},
}


def test_nothing_is_said_of_a_published_protocol() -> None:
    assert reasons_against(**USUAL) == []
    published: list[EvaluationMetric] = [
        frechet("fid"),
        frechet("sfid"),
        KID(),
        KID(seed=7),
        InceptionScore(),
        InceptionScore(splits=None, split_size=5000, shuffle_seed=None),
        PrecisionRecall(),
        PrecisionRecall(distances="float16"),
    ]
    assert [metric.nonstandard_reason() for metric in published] == [None] * len(published)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (InceptionScore(shuffle_seed=None), "splits=10, split_size=None, shuffle_seed=None"),
        (InceptionScore(splits=None, split_size=5000), "split_size=5000, shuffle_seed=2020"),
        (KID(subset_size=100), "subsets=100, subset_size=100"),
        (PrecisionRecall(neighbours=5), "neighbours=5"),
        (PrecisionRecall(features="dinov3.embeddings"), "features=dinov3.embeddings"),
        (KID(features="dinov3.embeddings"), "features=dinov3.embeddings"),
        (frechet("fd_dinov3"), "nobody has published"),
    ],
)
def test_settings_that_nobody_publishes(metric: EvaluationMetric, words: str) -> None:
    assert words in (metric.nonstandard_reason() or "")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pictures": 9_999}, "9,999 pictures, 50,000 are usual"),
        ({"pictures": 100_000}, "100,000 pictures, 50,000 are usual"),
        ({"reference_pictures": 9_999}, "the reference is of 9,999 pictures, 50,000 are usual"),
        ({"by_hand": ("protocol.pictures",)}, "protocol.pictures was set by hand"),
        ({"limited": True}, "limit: only the first pictures were taken"),
        ({"random": ("the decoder", "inception")}, "random weights (the decoder, inception)"),
        ({"extractors": {"inception": "tf32"}}, "inception ran in tf32"),
        (
            {"decoder": "bf16-mixed"},
            "the decoder ran in bf16-mixed, which moves FID by more than its last digit",
        ),
        (
            {"sizes": {"generated": (64, 48), "reference": (256, 256)}},
            "pictures of 48x64 stand against a reference of 256x256",
        ),
        ({"sizes": {"generated": None}}, "the generated pictures are of several sizes"),
        (
            {"sizes": {"generated": (64, 64), "reference": None}},
            "the reference pictures are of several sizes",
        ),
    ],
)
def test_each_circumstance_is_a_reason_of_its_own(changed: dict[str, Any], reason: str) -> None:
    assert reasons_against(**USUAL | changed) == [reason]


@pytest.mark.parametrize(
    "changed",
    [
        {"reference_pictures": 1_281_167},  # the published FID of samples is against the training set
        {"reference_pictures": None, "sizes": {"generated": (256, 256)}},  # ADM's file does not say
        {"decoder": None, "sizes": {"generated": (64, 64), "reference": (64, 64)}},
        {"pictures": 5_000, "expected": 5_000, "reference_pictures": 5_000},
    ],
)
def test_other_published_circumstances(changed: dict[str, Any]) -> None:
    assert reasons_against(**USUAL | changed) == []


def test_a_metric_of_ones_own_has_no_published_numbers() -> None:
    assert Difference().nonstandard_reason() == "no published numbers are known"
