"""`latentkit.evaluate` as users run it, with random weights: numbers are held against recounts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipes import photo
from safetensors.numpy import load_file, save_file

from latentkit.jobs.command import as_overrides, run
from latentkit.pixels import ResizeSquare

SMALL: dict[str, Any] = {"dataset.pictures": 12, "workers": 0}
"""Twelve of the demo's pictures, in this process."""


def evaluate(**values: Any) -> int:
    return run("evaluate", as_overrides({key: value for key, value in values.items() if value is not None}))


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("outputs/evaluations", name, "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder in which the demo has been evaluated once, with every picture saved."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert evaluate(**SMALL, save_images=True, save_reference="demo.npz") == 0
    return folder


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.mark.slow
def test_the_demo_is_encoded_decoded_and_compared(at_home: Path) -> None:
    found = report("demo")
    assert list(found["results"]) == [
        *("rfid", "inception_score", "inception_score_std", "psnr", "psnr_std", "ssim", "ssim_std")
    ]
    assert not found["comparable"]
    assert "random weights" in found["reasons"][0]
    assert found["generated"]["pictures"] == found["reference"]["pictures"] == 12
    sheet = Image.open(at_home / "outputs/evaluations/demo/reconstructions.png")
    assert sheet.height == 34 + 6 * (256 + 6)


@pytest.mark.slow
def test_psnr_is_that_of_the_saved_pictures_against_the_cropped_originals(at_home: Path) -> None:
    from latentkit.pixels import AdmCrop, Pillow
    from latentkit.sources import DemoSource

    source = DemoSource(pictures=12)
    values = []
    for index in range(len(source)):
        image = Pillow(orient=source.orient, strict=source.strict)(source.read(index)[0]).pixels
        original = AdmCrop(size=256)(image).astype(np.float64)
        saved = Image.open(at_home / "outputs/evaluations/demo/images" / f"{source[index].key}.png")
        values.append(10 * np.log10(255**2 / np.mean((original - np.asarray(saved)) ** 2)))
    results = report("demo")["results"]
    assert results["psnr"] == pytest.approx(np.mean(values), rel=1e-9)
    assert results["psnr_std"] == pytest.approx(np.std(values), rel=1e-6)


@pytest.mark.slow
def test_kept_statistics_stand_in_for_the_pictures(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = report("demo")["results"]
    assert evaluate(**SMALL, save_reference="again.npz") == 0
    assert Path("again.npz").read_bytes() == Path("demo.npz").read_bytes()
    assert "reference, demo" not in capfd.readouterr().err  # nothing was looked at again
    assert report("demo")["results"] == before
    assert len(list((at_home / "outputs/references").glob("demo-*.npz"))) == 1


@pytest.mark.slow
def test_saved_pictures_and_saved_statistics_give_the_same_fid(at_home: Path) -> None:
    """The decoder, the folder of PNG files, and the file of statistics are three ways to one number."""
    rfid = report("demo")["results"]["rfid"]
    folder = "outputs/evaluations/demo/images"
    options: dict[str, Any] = {"weights": "random", "workers": 0, "generated": folder, "metric": "fid"}
    assert evaluate(**options, reference="demo.npz", report_dir="outputs/evaluations/again") == 0
    assert report("again")["results"]["fid"] == pytest.approx(rfid, rel=1e-4)


@pytest.mark.slow
def test_two_folders_by_metrics_of_ones_own_choice(at_home: Path) -> None:
    for side, first in (("left", 0), ("right", 20)):
        (at_home / side).mkdir()
        for number in range(5):
            Image.fromarray(photo(first + number, 64, 80)).save(at_home / side / f"{number}.png")
    options: dict[str, Any] = {"weights": "random", "workers": 0, "generated": "left"}
    both = {"metric": ["fid", "kid"], "metrics.kid.subset_size": 4}
    assert evaluate(**options, **both, reference="right") == 0
    found = report("left@right")
    assert list(found["results"]) == ["fid", "kid", "kid_std"]
    assert found["left_out"] == {}
    assert evaluate(**options, reference="left", metric="fid") == 0
    assert report("left@left")["results"]["fid"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_sfid_is_of_the_spatial_features(at_home: Path) -> None:
    """By a hook on its layer; tr (S1 S2)^(1/2) is the nuclear norm of centred X1 X2^T / (N - 1)."""
    import torch

    from latentkit.evaluation.extractors.inception_network import from_seed

    network, centred, means = from_seed(0), [], []
    layer: list[torch.Tensor] = []
    network.get_submodule("Mixed_6d").register_forward_hook(lambda module, given, out: layer.append(out))
    for side, first in (("early", 0), ("late", 20)):
        (at_home / side).mkdir()
        pictures = np.stack([photo(first + number, 64, 80) for number in range(5)])
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(at_home / side / f"{number}.png")
        with torch.inference_mode():
            network(torch.from_numpy(pictures))
        values = layer.pop().numpy()[:, :7].transpose(0, 2, 3, 1).reshape(5, 2023).astype(np.float64)
        means.append(values.mean(0))
        centred.append((values - means[-1]) / 2)
    one, two = centred
    traces = (one**2).sum() + (two**2).sum() - 2 * np.linalg.norm(one @ two.T, "nuc")
    options: dict[str, Any] = {"weights": "random", "workers": 0, "generated": "early", "reference": "late"}
    assert evaluate(**options, metric=["fid", "sfid"]) == 0
    results = report("early@late")["results"]
    assert results["sfid"] == pytest.approx(((means[0] - means[1]) ** 2).sum() + traces, rel=1e-4)
    assert results["fid"] != pytest.approx(results["sfid"], rel=0.01)


@pytest.mark.slow
def test_as_many_latents_as_the_limit_are_enough(at_home: Path) -> None:
    """What lies there beyond it is not taken away."""
    options: dict[str, Any] = {**SMALL, "metric": "reconstruction", "limit": 2, "report_dir": "two"}
    assert evaluate(dataset="demo", encode=True, **options) == 0
    found = json.loads(Path("two/report.json").read_text())
    assert found["generated"]["pictures"] == 2
    assert len(_latents(at_home)) == 12


@pytest.mark.slow
def test_a_sweep_ends_in_one_table_and_one_plot(
    at_home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = {key: np.load(path) for key, path in _latents(at_home)}
    for name, scale in (("run1", 1.0), ("run2", 0.5)):
        save_file({"latents": np.stack([*latents.values()][:3]) * np.float16(scale)}, f"{name}.safetensors")
    arguments = ["-m", "generated=run1.safetensors,run2.safetensors", "generated_scaled=false", "metric=fid"]
    arguments += ["reference=demo.npz", "weights=random", "workers=0"]
    sweep = at_home / "outputs/evaluations/sweep"
    sweep.mkdir(parents=True, exist_ok=True)
    for name in ("2024.json", "sweep.yaml"):
        (sweep / name).write_text("{}")
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments])
    from latentkit.evaluate import main

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert {(sweep / name).read_text() for name in ("2024.json", "sweep.yaml")} == {"{}"}
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert [row["generated"] for row in rows] == ["run1.safetensors", "run2.safetensors"]
    assert float(rows[0]["fid"]) == report("run1.safetensors@demo.npz")["results"]["fid"]
    assert (
        float(rows[1]["fid"])
        == report("run2.safetensors@demo.npz")["results"]["fid"]
        != float(rows[0]["fid"])
    )
    assert (sweep / "sweep.md").read_text().count("\n") == 6
    assert Image.open(sweep / "sweep.png").width > 300
    assert "sweep.csv" in capfd.readouterr().err


def _latents(home: Path) -> list[tuple[str, Path]]:
    return [(path.stem, path) for path in sorted((home / "outputs/demo/sd_vae").glob("*.npy"))]


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "a reference for nothing": ({"reference": "demo.npz"}, 2, "give generated=PATH, or dataset=NAME"),
    "no such path": ({"generated": "nowhere"}, 2, "nowhere does not exist"),
    "an empty path": ({"generated": "", "reference": "demo.npz"}, 2, "an empty path"),
    "statistics for pictures": ({"generated": "demo.npz", "reference": "pictures"}, 2, "holds statistics"),
    "latents for a reference": ({"generated": "pictures", "reference": "outputs/demo"}, 2, "holds latents"),
    "a file of text": ({"generated": "text.txt"}, 2, "nothing that can be evaluated"),
    "an empty folder": ({"generated": "empty", "reference": "demo.npz"}, 2, "no picture in it"),
    "one picture": ({"generated": "one", "reference": "demo.npz"}, 1, "at least 2"),
    "not a number": ({"generated": "nan.npy", "generated_scaled": False, "reference": "demo.npz"}, 1, "NaN"),
    "channels": (
        {"generated": "flux.npy", "generated_scaled": False, "reference": "demo.npz"},
        1,
        "16, 8, 8",
    ),
    "scaled or not": ({"generated": "fine.npy", "reference": "demo.npz"}, 2, "generated_scaled=true"),
    "floats for pictures": ({"generated": "floats.npy", "reference": "demo.npz"}, 1, "uint8"),
    "no reference": ({"generated": "fine.npy", "generated_scaled": False, "metric": "fid"}, 2, "reference="),
    "no originals": (
        {
            "generated": "fine.npy",
            "generated_scaled": False,
            "reference": "demo.npz",
            "metric": "reconstruction",
        },
        *(2, "no originals"),
    ),
    "another network": (
        {"generated": "fine.npy", "generated_scaled": False, "reference": "demo.npz", "seed": 1},
        *(1, "extractors.inception.weights"),
    ),
    "another crop": (
        {"generated": "pictures", "reference": "demo.npz", "crop": "resize"},
        1,
        "crop=adm size=256, this run has crop=resize size=256",
    ),
    "a metric that is none": ({"metric": "fad"}, 2, "fad"),
    "no place for the report": ({"report_dir": ""}, 2, "report_dir="),
    "a report for a file": ({"report_dir": "text.txt"}, 2, "report_dir=text.txt"),
    "another kind of file": ({"save_reference": "val.txt"}, 2, "FILE.npz"),
    "a file of one's own": ({"save_reference": "mine.npz"}, 2, "it is not latentkit's"),
    "a file for its folder": ({"save_reference": "text.txt/val.npz"}, 2, "text.txt is no folder"),
    "a rounding that is none": ({"decoder.rounding": "up"}, 2, "round, truncate"),
    "published weights unless said": (
        {"generated": "pictures", "reference": "demo.npz", "metric": "fid", "weights": None}
        | {"extractors.inception.path": "none.pth"},
        *(1, "none.pth"),
    ),
    "a size without a crop": (
        {"generated": "pictures", "reference": "demo.npz", "size": 32, "metric": "fid"},
        *(2, "size=32 does nothing by itself: give crop="),
    ),
    "no such reference for a metric that needs none": (
        {"generated": "pictures", "reference": "nowhere", "metric": "inception_score"},
        *(2, "nowhere does not exist"),
    ),
    "a reference of too few": (
        {"generated": "outputs/evaluations/demo/images", "reference": "pictures", "metric": "kid"}
        | {"metrics.kid.subset_size": 5},
        *(
            2,
            "metric=kid: it needs at least 5 pictures (metrics.kid.subset_size decides that), pictures has 2",
        ),
    ),
    "statistics of nobody knows what": (
        {"generated": "pictures", "reference": "bare.npz", "metric": "fid", "save_reference": "mine2.npz"},
        *(2, "bare.npz does not record what its statistics are of"),
    ),
    "no reference to save": (
        {"generated": "pictures", "metric": "inception_score", "save_reference": "mine2.npz"}
        | {"metrics.inception_score.splits": 2},
        *(2, "save_reference: no metric of this run"),
    ),
    "pictures of somebody else's": (
        {"generated": "pictures", "reference": "demo.npz", "metric": "fid", "save_images": True}
        | {"report_dir": "holidays"},
        *(2, "that no evaluation wrote"),
    ),
    "latents of another crop than the reference": (
        {"generated": "outputs/demo/sd_vae", "reference": "squashed.npz", "metric": "fid"},
        *(1, "squashed.npz"),
    ),
    "statistics that lack what a metric needs": (
        {"generated": "pictures", "reference": "demo.npz", "metric": "sfid"},
        *(2, "metric=sfid: demo.npz has no mu_s, sigma_s: give pictures"),
    ),
    "uncropped against cropped": (
        {"generated": "pictures", "reference": "demo.npz", "metric": "fid", "crop": "none"},
        *(1, "crop=adm size=256, this run has crop=none"),
    ),
    "features that no extractor gives": (
        {"generated": "pictures", "reference": "demo.npz", "metric": "fd_dinov3", "extractor": "inception"},
        *(2, "metric=fd_dinov3 reads dinov3.embeddings, which no extractor gives (there are: none)"),
    ),
    "two statistics of one name": (
        {"generated": "pictures", "reference": "pictures", "metric": ["fid", "sfid"]}
        | {"metrics.sfid.statistics": ["mu", "sigma"]},
        *(2, "metric=sfid: statistics of inception.pool3 are called mu too: give metrics.sfid.statistics"),
    ),
    "a crop that is none": ({"crop": "middle"}, 2, "adm, resize, none"),
    "one picture of many": ({"limit": 1}, 2, "limit=1"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_one_clear_line(mistake: str, at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("latents")
    Path("empty").mkdir(exist_ok=True)
    Path("one").mkdir(exist_ok=True)
    Image.fromarray(photo(1, 32, 32)).save("one/one.png")
    Path("pictures").mkdir(exist_ok=True)
    for number in range(2):
        Image.fromarray(photo(number, 32, 32)).save(f"pictures/{number}.png")
    Path("holidays/images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(1, 32, 32)).save("holidays/images/beach.png")
    rng = np.random.default_rng(0)
    if not Path("squashed.npz").exists():
        with np.load("demo.npz") as file:
            arrays = dict(file)
        changed = json.loads(str(arrays["identity"]))
        changed["pictures"]["geometry"] = ResizeSquare(size=256).describe()
        np.savez("squashed.npz", **arrays | {"identity": np.array(json.dumps(changed))})
    np.savez("bare.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez("mine.npz", arr_0=np.zeros(3))
    np.save("fine.npy", rng.standard_normal((3, 4, 8, 8), np.float32))
    np.save("flux.npy", rng.standard_normal((3, 16, 8, 8), np.float32))
    np.save("nan.npy", np.full((3, 4, 8, 8), np.nan, np.float32))
    np.save("floats.npy", rng.random((3, 3, 32, 32), np.float32))
    values, status, words = WRONG[mistake]
    assert evaluate(**{"weights": "random", "workers": 0} | values) == status
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("latentkit:")]
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.slow
def test_interrupted_or_not_the_keys_decide_the_order(at_home: Path) -> None:
    """The Inception Score of the same pictures in another order of rows, by their keys, is the same."""
    latents = {key: np.load(path) for key, path in _latents(at_home)[:6]}
    scores = []
    for name, keys in (("ordered", sorted(latents)), ("mixed", sorted(latents, reverse=True))):
        rows = np.stack([latents[key] for key in keys])
        save_file({"latents": rows}, f"{name}.safetensors", {"keys": json.dumps(keys)})
        assert load_file(f"{name}.safetensors")["latents"].shape == (6, 4, 32, 32)
        options: dict[str, Any] = {"generated": f"{name}.safetensors", "generated_scaled": False}
        options |= {"metric": "inception_score", "metrics.inception_score.splits": 3}
        assert evaluate(**options, weights="random", workers=0) == 0
        scores.append(report(f"{name}.safetensors")["results"])
    assert scores[0] == scores[1]
