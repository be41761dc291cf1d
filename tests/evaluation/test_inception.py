"""Inception and the resize before it, to the digit: golden values, and an independent computation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import photo
from torch import Tensor

from latentkit.encoders import Random
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.extractors import Inception
from latentkit.evaluation.extractors.inception_network import InceptionNetwork, from_file, tf_resize

GOLDEN = Path(__file__).parent / "golden"
SIZES = [(256, 256), (299, 299), (97, 181)]


def recipe(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the golden values were made with."""
    weights = {}
    for index, name in enumerate(sorted(state)):
        value, generator = state[name], torch.Generator().manual_seed(1000 + index)
        if name.endswith((".num_batches_tracked", ".running_mean", ".bn.bias")):
            weights[name] = torch.zeros_like(value)
        elif name.endswith((".running_var", ".bn.weight")):
            weights[name] = torch.ones_like(value)
        else:
            scale = np.sqrt(2 / value[0].numel()) if value.dim() > 1 else 0.1
            weights[name] = torch.randn(value.shape, generator=generator) * scale
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return recipe(InceptionNetwork().state_dict())


@pytest.fixture(scope="module")
def extractor(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Inception:
    """The pretrained Inception, published with the recipe's weights."""
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(weights, file)

    class Published(Inception):
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()

    return Published(path=str(file))


def relative(ours: Tensor, theirs: np.ndarray | Tensor) -> float:
    expected = torch.as_tensor(theirs)
    return float((ours - expected).norm() / expected.norm())


def test_names_shapes_and_sum_of_the_weights_are_the_published_networks(weights: dict[str, Tensor]) -> None:
    lines = [f"{name} {tuple(value.shape)}" for name, value in sorted(weights.items())]
    assert lines == (GOLDEN / "inception_keys.txt").read_text().splitlines()
    total = sum(value.double().sum().item() for value in weights.values())
    assert total == pytest.approx(34545.04343421838, abs=1e-6)


def test_every_feature_is_the_reference_implementations(
    extractor: Inception, weights: dict[str, Tensor]
) -> None:
    network = extractor.load()
    pooled: dict[str, Tensor] = {}
    for layer, tap in (("MaxPool_1", "64"), ("MaxPool_2", "192"), ("Mixed_6e", "768")):
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, tap=tap: pooled.update({tap: output.mean((2, 3))})
        )
    golden = np.load(GOLDEN / "inception.npz")
    for number, (height, width) in enumerate(SIZES):
        pictures = np.stack([photo(10 * number + j, height, width) for j in (0, 1)])
        with torch.inference_mode():
            features = network(torch.from_numpy(pictures))
        assert tuple(features) == tuple(extractor.outputs)
        assert all(value.dtype == torch.float32 for value in features.values())
        ours = {
            "2048": features["pool3"],
            "logits_unbiased": features["logits"],
            "logits": features["logits"] + weights["fc.bias"],
            "sfid": features["spatial"],
            **pooled,
        }
        for name, value in ours.items():
            assert relative(value, golden[f"{height}x{width}/{name}"]) < 1e-5, (height, width, name)


def test_folding_the_normalisation_changes_only_the_rounding(weights: dict[str, Tensor]) -> None:
    """The recipe's normalisation is neutral; this one is not."""
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if ".bn." in name and value.dim():
            noise = torch.rand(value.shape, generator=generator)
            weights = weights | {name: noise + 0.5 if name.endswith(("weight", "var")) else noise - 0.5}
    network = InceptionNetwork().eval().requires_grad_(False)
    network.load_state_dict(weights)
    pixels = torch.from_numpy(photo(3, 97, 181))[None]
    with torch.inference_mode():
        plain = network(pixels)
        folded = network.fold()(pixels)
    assert not [name for name in network.state_dict() if ".bn." in name]
    for tap, value in plain.items():
        assert 0 < relative(folded[tap], value) < 1e-5, tap


def test_random_weights_depend_on_the_seed_alone_and_say_so() -> None:
    before = torch.get_rng_state()
    first, again, other = (Inception(weights=Random(seed=seed)).load() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    pixels = torch.from_numpy(np.stack([photo(0, 64, 64), photo(1, 64, 64)]))
    with torch.inference_mode():
        features, same, others = first(pixels), again(pixels), other(pixels)
    assert {tap: tuple(value.shape) for tap, value in features.items()} == {
        "pool3": (2, 2048),
        "logits": (2, 1008),
        "spatial": (2, 2023),
    }
    declared = Inception().outputs
    for tap, value in features.items():
        assert list(value.shape[1:]) == declared[tap]["shape"]
        assert value.isfinite().all()
        assert torch.equal(value, same[tap])
        assert not torch.equal(value, others[tap])
        assert not torch.equal(value[0], value[1])
    random = Inception(weights=Random(seed=7))
    assert not random.pretrained
    assert random.identity()["weights"] == "random:7"


def test_the_network_is_frozen_in_eval_mode_and_float32(extractor: Inception) -> None:
    network = extractor.load()
    assert not any(module.training for module in network.modules())
    parameters = list(network.parameters())
    assert parameters
    assert {(p.dtype, p.requires_grad, p.device.type) for p in parameters} == {(torch.float32, False, "cpu")}


def test_its_identity_says_all_that_the_features_depend_on(extractor: Inception) -> None:
    assert extractor.pretrained
    assert extractor.identity() == {
        "network": "inception-2015-12-05",
        "weights": extractor.sha256,
        "resize": "bilinear to 299 x 299 from the corner, as TensorFlow 1",
        "precision": "32-true",
    }
    with pytest.raises(UsageError, match=r"extractors\.inception\.precision=fp16: choose one of auto, 32"):
        Inception(precision="fp16")


def plain_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """`tf_resize` of one picture, pixel by pixel of an output row, as TensorFlow's kernel is written."""
    height, width = pixels.shape[:2]
    single, out = np.float32, np.empty((size, size, 3), np.float32)
    for y in range(size):
        in_y = single(y) * (single(height) / single(size))
        above = pixels[int(in_y)].astype(single)
        below = pixels[min(int(in_y) + 1, height - 1)].astype(single)
        for x in range(size):
            in_x = single(x) * (single(width) / single(size))
            left, right, share = int(in_x), min(int(in_x) + 1, width - 1), in_x - single(int(in_x))
            top = above[left] + (above[right] - above[left]) * share
            bottom = below[left] + (below[right] - below[left]) * share
            out[y, x] = top + (bottom - top) * (in_y - single(int(in_y)))
    return out


@pytest.mark.parametrize(("height", "width"), [(256, 256), (97, 299), (1, 700)])
def test_the_resize_is_tensorflow_1s_bit_by_bit(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    got = tf_resize(torch.from_numpy(np.stack([pixels, pixels[::-1]])), 299)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got[0], plain_resize(pixels, 299))
    np.testing.assert_array_equal(got[1], plain_resize(pixels[::-1], 299))


def test_the_resize_leaves_pictures_of_that_size_as_they_are() -> None:
    pixels = torch.from_numpy(photo(0, 299, 299))[None]
    assert torch.equal(tf_resize(pixels, 299), pixels.float())


def wrong_files(folder: Path, weights: dict[str, Tensor]) -> dict[str, str]:
    """File -> what is said of it."""
    short = {name: value for name, value in weights.items() if name.startswith("fc.")}
    torch.save(short, folder / "short")
    torch.save(short | {name: torch.zeros(1) for name in weights if name not in short}, folder / "shapes")
    torch.save([1, 2], folder / "list")
    torch.save({name: torch.zeros(()) for name in ("model", "optimizer")}, folder / "other")
    (folder / "page").write_text("<html>")
    (folder / "empty").touch()
    return {
        "short": r"of the Inception of 2015-12-05: .*Missing key\(s\) in state_dict: \S+conv\.weight",
        "shapes": r"of the Inception of 2015-12-05: .*size mismatch for \S+conv\.weight",
        "list": "dict-like, got <class 'list'>",
        "other": r"Missing key\(s\)",
        "page": "cannot be read as PyTorch weights",
        "empty": "cannot be read as PyTorch weights",
    }


def test_a_file_of_something_else_is_one_line(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    for name, text in wrong_files(tmp_path, weights).items():
        with pytest.raises(LatentkitError, match=text) as caught:
            from_file(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_file_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"fc.weight": Malice()}, tmp_path / "malice")
    with pytest.raises(LatentkitError, match="cannot be read as PyTorch weights"):
        from_file(tmp_path / "malice")
    assert not (tmp_path / "ran").exists()
