"""FID and its relatives against the published evaluators, and what they keep of a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from feeding import computed, feed, frechet
from recipes import features

from latentkit.errors import LatentkitError
from latentkit.evaluation.metrics import EvaluationMetric

Sets = tuple[np.ndarray, np.ndarray]


def test_it_agrees_with_torch_fidelity_and_adm(two_sets: Sets, golden_metrics: dict[str, Any]) -> None:
    found = computed(frechet("fid"), *two_sets)["fid"]
    published = golden_metrics["torch_fidelity/fid"]["frechet_inception_distance"]
    assert found == pytest.approx(published, rel=1e-6)
    assert found == pytest.approx(golden_metrics["adm/fid"], rel=1e-6)


def test_fewer_pictures_than_features(two_sets: Sets, golden_metrics: dict[str, Any]) -> None:
    generated, reference = two_sets
    found = computed(frechet("fid"), generated[:100], reference[:100])["fid"]
    published = golden_metrics["torch_fidelity/fid_rank_deficient_100"]["frechet_inception_distance"]
    assert found == pytest.approx(published, abs=1e-4)


def test_statistics_are_numpys_and_do_not_depend_on_order_or_batches(two_sets: Sets) -> None:
    _, reference = two_sets
    metric = frechet("fid")
    feed(metric, "reference", reference, np.random.default_rng(0).permutation(len(reference)), batch=77)
    statistics = metric.reference_statistics()
    assert statistics.keys() == {"mu", "sigma"}
    exact = reference.astype(np.float64)
    np.testing.assert_allclose(statistics["mu"], exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics["sigma"], np.cov(exact, rowvar=False), rtol=0, atol=1e-13)


@pytest.mark.parametrize("count", [True, False])
def test_a_reference_from_its_statistics_gives_the_same_distance(count: bool) -> None:
    generated, reference = features(1, 50, 12, 0), features(2, 40, 12, 0.1)
    first = frechet("fid")
    distance = computed(first, generated, reference)["fid"]
    statistics = first.reference_statistics()
    second = frechet("fid")
    assert second.load_reference(statistics | ({"count": np.array(40)} if count else {}))  # ADM's have none
    assert computed(second, generated)["fid"] == distance
    for name, value in second.reference_statistics().items():
        np.testing.assert_array_equal(value, statistics[name])
    assert second.reference_statistics().keys() == statistics.keys()


@pytest.mark.parametrize(
    ("metric", "read", "names"),
    [
        (frechet("sfid"), "inception.spatial", {"mu_s", "sigma_s"}),
        (frechet("fd_dinov3"), "dinov3.embeddings", {"mu_dinov3", "sigma_dinov3"}),
    ],
)
def test_its_relatives_read_other_features_under_other_names(
    metric: EvaluationMetric, read: str, names: set[str]
) -> None:
    generated, reference = features(1, 50, 12, 0), features(2, 40, 12, 0.1)
    assert metric.load_reference({"mu": np.zeros(12), "sigma": np.eye(12)}) is False
    fid = computed(frechet("fid"), generated, reference)["fid"]
    assert computed(metric, generated, reference)[metric.name] == fid
    assert metric.reference_statistics().keys() == names
    assert metric.features == (read,)


def test_sums_stay_in_double_precision_whatever_becomes_of_the_module_around_them() -> None:
    generated, reference = features(1, 50, 12, 0), features(2, 40, 12, 0.1)
    metric = frechet("fid")
    module = torch.nn.ModuleList([metric])
    feed(metric, "generated", generated)
    module.half().to(torch.bfloat16).float()
    feed(metric, "reference", reference)
    assert metric.generated.dtype == metric.reference.dtype == torch.float64
    assert metric.compute() == computed(frechet("fid"), generated, reference)


def test_features_that_are_not_finite_are_refused_with_their_positions() -> None:
    wrong = features(1, 20, 12, 0)
    wrong[[3, 7], 5] = np.nan, np.inf
    with pytest.raises(LatentkitError, match=r"pool3 is not finite .* positions \[3, 7\]$"):
        feed(frechet("fid"), "generated", wrong)


@pytest.mark.parametrize(("generated", "reference", "side"), [(1, 9, "generated"), (9, 1, "reference")])
def test_one_picture_has_no_covariance(generated: int, reference: int, side: str) -> None:
    with pytest.raises(LatentkitError, match=f"fid needs at least 2 {side} pictures, there are 1"):
        computed(frechet("fid"), features(1, generated, 12, 0), features(2, reference, 12, 0))


def test_a_reference_of_another_network_is_refused() -> None:
    metric = frechet("fid")
    metric.load_reference({"mu": np.zeros(16), "sigma": np.eye(16)})
    with pytest.raises(LatentkitError, match="12 features a picture here, 16 there"):
        feed(metric, "generated", features(1, 9, 12, 0))
    with pytest.raises(LatentkitError, match=r"mu and sigma have the shapes \[16\] and \[12, 12\]"):
        frechet("fid").load_reference({"mu": np.zeros(16), "sigma": np.eye(12)})
