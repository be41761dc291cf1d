"""The hub's own client against a small server that answers as the hub does: what is fetched, what is said."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

COMMIT = "31f26fdeee1355a5c34592e401dd41e45d25a493"


class Hub(BaseHTTPRequestHandler):
    """``lab/open`` and ``lab/gated`` hold the same files; ``lab/absent`` is not there."""

    files: ClassVar[dict[str, bytes]] = {}
    fetched: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if "lab/absent" in path:
            self.send(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
        elif path.startswith("/api/") and "/revision/" in path:
            if path.endswith("/lost"):
                self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
            else:
                self.send(
                    200, {}, json.dumps({"id": "lab/open", "sha": COMMIT, "siblings": []}).encode(), body
                )
        elif path.startswith("/api/") and "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self.send(200, {}, json.dumps(tree).encode(), body)
        elif "lab/gated" in path:
            self.send(403, {"X-Error-Code": "GatedRepo"}, b"", body)
        else:
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            data = self.files[name]
            if body:
                self.fetched.append(name)
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.send(200, {"X-Repo-Commit": COMMIT, "ETag": etag}, data, body)

    def send(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(flux_folder: Path) -> Iterator[str]:
    """The server's address. It holds the tiny Flux, with a transformer beside it that nobody asks for."""
    Hub.files = {f"vae/{path.name}": path.read_bytes() for path in (flux_folder / "vae").iterdir()}
    Hub.files |= {"flux1-dev.safetensors": b"24 GB", "vae/diffusion_pytorch_model.bin": b"pickle"}
    Hub.fetched = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def contract(endpoint: str, cache: Path, model: str, *, revision: str = COMMIT, local: bool = False) -> str:
    """The contract's weights as JSON, or the error's line, as another process gets it."""
    code = f"""
from latentkit.encoders import Autoencoder, Pretrained
from latentkit.errors import LatentkitError
from latentkit.pixels import Pillow
import json
weights = Pretrained(local_files_only={local})
vae = Autoencoder(name="flux_vae", model={model!r}, revision={revision!r}, subfolder="vae",
                  crop="bucket", weights=weights)
try:
    made = vae.contract(Pillow(True, True))
    print(json.dumps([made.model, made.revision, made.weights]))
except LatentkitError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def test_only_the_network_s_files_are_fetched_then_hashed_and_kept(hub: str, tmp_path: Path) -> None:
    wanted = ("config.json", "diffusion_pytorch_model.safetensors")
    digests = {name: hashlib.sha256(Hub.files[f"vae/{name}"]).hexdigest() for name in wanted}
    expected = ["lab/open", COMMIT, digests]
    assert json.loads(contract(hub, tmp_path, "lab/open")) == expected
    assert sorted(Hub.fetched) == [f"vae/{name}" for name in wanted]
    nowhere = "http://127.0.0.1:9"
    assert json.loads(contract(nowhere, tmp_path, "lab/open")) == expected
    assert json.loads(contract(nowhere, tmp_path, "lab/open", local=True)) == expected


@pytest.mark.parametrize(
    ("model", "revision", "text"),
    [
        (
            "lab/gated",
            COMMIT,
            "lab/gated is gated: accept the licence at https://huggingface.co/lab/gated "
            "and run `hf auth login`",
        ),
        ("lab/absent", COMMIT, "lab/absent is not on the Hugging Face hub, or is private"),
        ("lab/open", "lost", "lab/open has no revision lost: check encoders.flux_vae.revision"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: str, tmp_path: Path, model: str, revision: str, text: str
) -> None:
    line = contract(hub, tmp_path, model, revision=revision)
    assert line.startswith(f"flux_vae: {text}")
    assert line.endswith("; otherwise pass encoders.flux_vae.model=FOLDER or weights=random")


@pytest.mark.parametrize(
    ("local", "why"), [(False, "the hub cannot be reached"), (True, "the network is not to be used")]
)
def test_without_a_network_and_a_cache_the_line_says_so(tmp_path: Path, local: bool, why: str) -> None:
    line = contract("http://127.0.0.1:9", tmp_path, "lab/open", local=local)
    assert line == (
        f"flux_vae: lab/open is not in the local cache, and {why}; "
        "otherwise pass encoders.flux_vae.model=FOLDER or weights=random"
    )
