"""What stops a preparation half-way: no room, a full disk, Ctrl-C. It says so in one line, and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from encode_process import files, run_verb, run_with_small_files
from miniature_imagenet import WNIDS, Miniature, tar_bytes
from rich.console import Console

from latentkit.errors import LatentkitError
from latentkit.imagenet.extract import extract
from latentkit.sources import ImageNetArchive
from latentkit.sources.imagenet.index import Index, IndexedArchive

VARIANT = "allow_variant=true"
RAW = Path("outputs/datasets/imagenet1k_raw")


def test_without_room_nothing_is_written(tmp_path: Path) -> None:
    count = shutil.disk_usage(tmp_path).free // 2**30 + 2
    archive = tmp_path / "val.tar"
    with archive.open("wb") as file:
        file.truncate(count << 30)  # a file of holes: it takes no room itself
    stat = archive.stat()
    numbers = np.arange(1, count + 1)
    index = Index(
        split="val",
        archive=IndexedArchive(str(archive), stat.st_size, stat.st_mtime_ns, "", ""),
        devkit=None,
        classes=(WNIDS[0],),
        class_names=(),
        offset=(numbers - 1) << 30,
        length=np.full(count, 2**30),
        label=np.zeros(count),
        number=numbers,
    )
    (tmp_path / "index").write_bytes(index.content())
    source = ImageNetArchive(index=str(tmp_path / "index"), split="val")
    with pytest.raises(LatentkitError, match=r"no room in .*raw: .* to write.*another extract_dir"):
        extract([source], tmp_path / "raw", Console(quiet=True))
    assert not (tmp_path / "raw").exists()


def test_a_disk_that_fills_up_while_extracting(miniature: Miniature) -> None:
    work = miniature.folder.parent
    miniature.train_tar.unlink()
    large = {
        name: content * (200 if name.endswith("31.JPEG") else 1) for name, content in miniature.val.items()
    }
    miniature.val_tar.write_bytes(tar_bytes(large))
    assert run_verb("prepare", VARIANT, cwd=work).returncode == 0
    ended = run_with_small_files(64, "prepare", VARIANT, "extract=true", cwd=work)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"latentkit: cannot write {RAW}/val/")
    assert last.endswith("finished work is kept")
    assert "Traceback" not in ended.stderr
    assert json.loads((work / RAW / ".latentkit" / "val.json").read_text())["complete"] is False
    assert not list((work / RAW).rglob("*.tmp"))
    written = {path.name: path.read_bytes() for path in (work / RAW).rglob("*.JPEG")}
    assert written.items() <= large.items()
    assert run_verb("prepare", VARIANT, "extract=true", cwd=work).returncode == 0
    assert {path.name: path.read_bytes() for path in (work / RAW).rglob("*.JPEG")} == large


def test_ctrl_c_at_any_write(miniature: Miniature) -> None:
    work = miniature.folder.parent
    few = {wnid: dict(list(miniature.train[wnid].items())[:2]) for wnid in WNIDS[:2]}
    miniature.train_tar.write_bytes(tar_bytes({f"{wnid}.tar": tar_bytes(p) for wnid, p in few.items()}))
    miniature.val_tar.write_bytes(tar_bytes(dict(list(miniature.val.items())[:3])))
    options = (VARIANT, "extract=true")
    whole = run_verb("prepare", *options, "output_dir=clean", cwd=work)
    assert whole.returncode == 0, whole.stderr
    assert whole.changes is not None
    clean = files(work / "clean", {"lock"})
    for point in np.linspace(0, whole.changes - 1, 6, dtype=int).tolist():
        out = f"output_dir=out{point}"
        ended = run_verb("prepare", *options, out, cwd=work, interrupt_at=point)
        if ended.returncode != 130:
            assert files(work / f"out{point}", {"lock"}) == clean, (point, ended.stderr)
        assert "Traceback" not in ended.stderr
        if ended.returncode == 130:
            assert "interrupted; " in ended.stderr.splitlines()[-1]
        again = run_verb("prepare", *options, out, cwd=work)
        assert again.returncode == 0, again.stderr
        assert files(work / f"out{point}", {"lock"}) == clean, f"interrupted at call {point}"


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_ctrl_c_while_an_archive_is_read(miniature: Miniature) -> None:
    work, size = miniature.folder.parent, 2**29
    inner = header(f"{WNIDS[0]}_1.JPEG", size)
    with miniature.train_tar.open("wb") as file:
        file.write(header(f"{WNIDS[0]}.tar", len(inner) + size + 1024) + inner)
        file.truncate(512 + len(inner) + size + 2048)
    command = [sys.executable, "-m", "latentkit.prepare", VARIANT]
    child = subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, text=True)
    process = psutil.Process(child.pid)
    while not any(file.path == str(miniature.train_tar) and file.position for file in process.open_files()):
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == "latentkit: interrupted; what was published is whole"
    assert not (work / "outputs/datasets/imagenet1k_train_index.safetensors").exists()
    again = run_verb("prepare", VARIANT, cwd=work)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("read before and unchanged") == 2  # the devkit and val were done by then
    assert "train: data/ILSVRC2012_img_train.tar, 512.0 MiB, to read" in again.stderr


def test_a_model_that_is_not_whole_leaves_nothing(miniature: Miniature, tmp_path: Path) -> None:
    work = miniature.folder.parent
    assert run_verb("prepare", VARIANT, cwd=work).returncode == 0
    before = files(work / "outputs", ())
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    for content in (None, b"cut"):
        if content is not None:
            (model / "diffusion_pytorch_model.safetensors").write_bytes(content)
        ended = run_verb("encode", "dataset=imagenet", f"encoders.sd_vae.model={model}", cwd=work)
        assert ended.returncode in (1, 2), ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("latentkit: "), ended.stderr
        assert str(model) in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr
        assert files(work / "outputs", ()) == before
