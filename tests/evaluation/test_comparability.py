"""What keeps a number from standing beside published ones is said, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from latentkit.evaluation.comparability import Circumstances, reasons_against
from latentkit.evaluation.metrics import FID, KID, EvaluationMetric, InceptionScore, PrecisionRecall

USUAL = Circumstances(
    pictures=50_000, expected=50_000, limited=False, random=(), extractors={"inception": "32-true"}
)


def test_nothing_is_said_of_a_published_protocol() -> None:
    assert reasons_against(USUAL) == []
    published: list[EvaluationMetric] = [
        FID(),
        KID(),
        KID(seed=7),
        InceptionScore(),
        InceptionScore(splits=None, split_size=5000, shuffle_seed=None),
        PrecisionRecall(),
        PrecisionRecall(distances="float16"),
    ]
    assert [metric.unpublished() for metric in published] == [None] * len(published)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (InceptionScore(shuffle_seed=None), "splits=10, split_size=None, shuffle_seed=None"),
        (InceptionScore(splits=None, split_size=5000), "split_size=5000, shuffle_seed=2020"),
        (KID(subset_size=100), "subsets=100, subset_size=100"),
        (PrecisionRecall(neighbours=5), "neighbours=5"),
    ],
)
def test_settings_that_nobody_publishes(metric: EvaluationMetric, words: str) -> None:
    settings = metric.unpublished()
    assert settings is not None
    (reason,) = reasons_against(replace(USUAL, settings={metric.name: settings}))
    assert reason.startswith(f"metric={metric.name} has ")
    assert reason.endswith(words)


def test_each_circumstance_is_a_reason_of_its_own() -> None:
    changed = replace(
        USUAL,
        pictures=9_999,
        limited=True,
        random=("the decoder", "inception"),
        extractors={"inception": "tf32"},
    )
    assert reasons_against(changed) == [
        "random weights (the decoder, inception)",
        "9,999 pictures, 50,000 are usual",
        "limit: only the first pictures were taken",
        "inception ran in tf32",
    ]
