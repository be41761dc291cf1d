"""Where the feature networks' weights come from, with all that goes wrong there; and DINOv3's features."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_server import Answer, Behaviour, PhotoServer
from recipes import photo

from latentkit.encoders import T5, Autoencoder, DINOv3, Pretrained, Random
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.comparability import check_extractors, extractors_of
from latentkit.evaluation.extractors import Inception
from latentkit.evaluation.extractors.inception import fetch
from latentkit.evaluation.step import FeatureNetwork
from latentkit.pixels.geometry import AdmCrop, AntialiasedResize, CropToMultiple

NAME = "weights.pth"
CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's folder of weights; it is not there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def serving(behaviour: Behaviour | None = None) -> PhotoServer:
    return PhotoServer({NAME: CONTENT}, behaviours={f"/photo/{NAME}": behaviour} if behaviour else {})


def fetched(url: str, *, sha256: str = SHA256, local_files_only: bool = False) -> Path:
    return fetch(url, sha256, where="extractors.inception", local_files_only=local_files_only)


def weights_in(folder: Path) -> list[str]:
    """All that is there but the lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_weights_are_downloaded_once_to_where_torch_hub_keeps_them(hub: Path) -> None:
    with serving() as server:
        for _ in range(2):
            assert fetched(server.url(NAME)) == hub / NAME
        assert len(server.requests) == 1
    assert (hub / NAME).read_bytes() == CONTENT
    assert weights_in(hub) == [NAME]


def test_processes_that_want_them_at_one_time_download_them_once(hub: Path) -> None:
    with serving() as server, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetched, [server.url(NAME)] * 4)) == {hub / NAME}
        assert len(server.requests) == 1


def test_a_body_that_ends_early_is_asked_for_again(hub: Path) -> None:
    def cut_at_first(answer: Answer, number: int) -> None:
        if number == 1:
            answer.send(200, CONTENT[:1000], length=len(CONTENT))
        else:
            answer.right()

    with serving(cut_at_first) as server:
        fetched(server.url(NAME))
        assert len(server.requests) == 2
    assert (hub / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        pytest.param(
            lambda answer, number: answer.send(404, b"no"), "cannot be downloaded: HTTP 404", id="missing"
        ),
        pytest.param(
            lambda answer, number: answer.send(200, b"<html>sign in</html>"),
            f"it is another file: its sha256 is {hashlib.sha256(b'<html>sign in</html>').hexdigest()}",
            id="another file",
        ),
        pytest.param(
            lambda answer, number: answer.send(200, CONTENT[:-1], length=-1),
            "another file",
            id="cut, no length",
        ),
        pytest.param(
            lambda answer, number: answer.send(302, Location="file:///etc/passwd"), "refused", id="redirect"
        ),
    ],
)
def test_what_is_not_the_file_is_refused_in_one_line(hub: Path, behaviour: Behaviour, text: str) -> None:
    with serving(behaviour) as server, pytest.raises(LatentkitError, match=text) as caught:
        fetched(server.url(NAME))
    assert len(server.requests) == 1
    message = str(caught.value)
    assert message.startswith(f"extractors.inception: {server.url(NAME)} cannot be downloaded: ")
    assert message.endswith("; pass extractors.inception.path=FILE or weights=random")
    assert "\n" not in message
    assert weights_in(hub) == []


def test_without_a_network_one_line_says_what_to_do(hub: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LatentkitError, match=rf"cannot reach 127\.0\.0\.1:{port}.*inception\.path=FILE"):
        fetched(f"http://127.0.0.1:{port}/{NAME}")
    assert weights_in(hub) == []


def test_the_network_is_not_used_when_it_must_not_be(hub: Path) -> None:
    with serving() as server:
        with pytest.raises(LatentkitError, match="is missing, and the network is not to be used"):
            fetched(server.url(NAME), local_files_only=True)
        assert not hub.exists()
        fetched(server.url(NAME))
        assert len(server.requests) == 1
        assert fetched(server.url(NAME), local_files_only=True) == hub / NAME


def test_a_damaged_file_is_left_alone_and_named(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / NAME).write_bytes(CONTENT[:-1])
    with serving() as server:
        with pytest.raises(LatentkitError, match=rf"{NAME} is damaged or another file.*; remove it"):
            fetched(server.url(NAME))
        assert not server.requests
    assert (hub / NAME).read_bytes() == CONTENT[:-1]


def test_a_folder_that_cannot_be_written_is_named_with_another_way(hub: Path) -> None:
    hub.parent.parent.mkdir()
    hub.parent.touch()
    with (
        serving() as server,
        pytest.raises(LatentkitError, match="set TORCH_HOME to another folder, or pass"),
    ):
        fetched(server.url(NAME))


def test_a_killed_download_leaves_nothing_behind_after_the_next(hub: Path) -> None:
    half_sent, killed = threading.Event(), threading.Event()

    def stall_at_first(answer: Answer, number: int) -> None:
        if number > 1:
            answer.right()
            return
        answer.send(200, CONTENT[:200_000], length=len(CONTENT) + 1)
        half_sent.set()
        killed.wait(30)

    code = (
        "import sys\n"
        "from latentkit.evaluation.extractors.inception import fetch\n"
        "fetch(*sys.argv[1:], where='x', local_files_only=False)"
    )
    with serving(stall_at_first) as server:
        command = [sys.executable, "-c", code, server.url(NAME), SHA256]
        with subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL) as child:
            assert half_sent.wait(30)
            child.send_signal(signal.SIGKILL)
        killed.set()
        (left,) = weights_in(hub)
        assert left.endswith(".tmp")
        fetched(server.url(NAME))
    assert weights_in(hub) == [NAME]
    assert (hub / NAME).read_bytes() == CONTENT


def test_a_file_of_the_users_must_be_the_published_one(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_bytes(CONTENT)
    published = "not 6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    for path, text in {
        file: f"{NAME} is damaged or another file: its sha256 is {SHA256}, {published}",
        tmp_path / "absent.pth": "absent.pth cannot be read: No such file",
        tmp_path: "cannot be read: Is a directory",
    }.items():
        for ask in (Inception.identity, Inception.load):
            with pytest.raises(LatentkitError, match=text) as caught:
                ask(Inception(path=str(path)))
            assert str(caught.value).startswith("extractors.inception: ")


@pytest.fixture(scope="module")
def dinov3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv3 with one layer of width 32."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_register_tokens=4,
    )
    folder = tmp_path_factory.mktemp("dinov3")
    DINOv3ViTModel(config).save_pretrained(folder)
    return folder


def test_dinov3_resizes_as_its_image_processor(dinov3_folder: Path) -> None:
    geometry = DINOv3(model=str(dinov3_folder)).geometry
    golden = np.load(Path(__file__).parents[1] / "pixels" / "golden" / "dinov3_pixels.npz")
    for number, size in enumerate(["375x500", "500x333", "224x224", "1024x768", "97x181"]):
        picture = photo(200 + number, *map(int, size.split("x")))
        levels = geometry.prepare(torch.from_numpy(picture)[None])[0].numpy()
        normalised = (levels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert np.abs(normalised.transpose(2, 0, 1)[:, ::3, ::3] - golden[size]).max() < 1e-4, size


def test_dinov3_features_are_the_encoders_embeddings(dinov3_folder: Path) -> None:
    extractor = DINOv3(model=str(dinov3_folder))
    pictures = np.stack([photo(seed, 120, 90) for seed in (0, 1)])
    prepared = np.stack([AntialiasedResize(size=224)(picture) for picture in pictures])
    with torch.inference_mode():
        features = FeatureNetwork(extractor)(torch.from_numpy(pictures))
        expected = extractor.load()(torch.from_numpy(prepared))["embeddings"]
    assert tuple(features) == ("dinov3.embeddings",)
    found = features["dinov3.embeddings"]
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    identity = extractor.identity()
    assert list(identity) == ["network", "model", "revision", "weights", "input", "stored", "precision"]
    assert identity["network"] == "dinov3"
    assert "orientation" not in identity["input"]
    weights = hashlib.sha256((dinov3_folder / "model.safetensors").read_bytes()).hexdigest()
    assert identity["weights"]["model.safetensors"] == weights
    assert identity["input"]["size"] == 224
    assert identity["precision"] == "32-true"
    assert extractor.pretrained


def test_dinov3_with_random_weights_has_the_real_shape() -> None:
    extractor = DINOv3(weights=Random(seed=3))
    with torch.inference_mode():
        features = FeatureNetwork(extractor)(torch.from_numpy(photo(0, 64, 64))[None])
    assert features["dinov3.embeddings"].shape == (1, 1024)
    assert not extractor.pretrained
    assert extractor.identity()["weights"] == "random:3"


def test_messages_about_dinov3_name_the_extractor(tmp_path: Path) -> None:
    with pytest.raises(LatentkitError, match=r"extractors\.dinov3\.model=.*: no such folder"):
        DINOv3(model=str(tmp_path / "absent"), group="extractors").identity()
    with pytest.raises(LatentkitError, match=r"extractors\.dinov3\.model=.*: no config\.json"):
        DINOv3(model=str(tmp_path), weights=Pretrained(local_files_only=True), group="extractors").load()


def test_encoders_are_chosen_by_the_outputs_that_metrics_read() -> None:
    encoders = [Inception(), DINOv3()]
    assert extractors_of({"inception.pool3", "inception.spatial", "pixels"}, encoders) == encoders[:1]
    assert extractors_of({"pixels", "dinov3.embeddings"}, encoders) == encoders[1:]


def test_what_cannot_prepare_pictures_on_the_device_is_no_extractor() -> None:
    with pytest.raises(UsageError, match=r"^extractors\.sd_vae: AdmCrop prepares its"):
        check_extractors({}, [Autoencoder(name="sd_vae", model="none", weights=Random(), group="extractors")])
    with pytest.raises(UsageError, match=r"^encoders\.t5: it reads captions"):
        check_extractors({}, [T5()])
    with pytest.raises(UsageError, match="AdmCrop works on the host alone"):
        AdmCrop().prepare(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    check_extractors({}, [Inception(), DINOv3(weights=Random())])


def test_a_crop_to_multiples_is_the_same_on_tensors() -> None:
    picture, geometry = photo(3, 21, 35), CropToMultiple(multiple=8)
    (cropped,) = geometry.prepare(torch.from_numpy(picture)[None]).numpy()
    np.testing.assert_array_equal(cropped, geometry(picture))
