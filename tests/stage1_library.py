"""A photo library of Stage 1: records with inline embeddings, as a test writes and reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from encode_process import Ended, run_verb

RECORDS = "data/derived/approved_image_dataset.jsonl"
MASK = [1] * 5 + [0] * 72


def migrate(work: Path, *arguments: str, **how: int) -> Ended:
    return run_verb("migrate", *arguments, cwd=work, **how)


def numbers(seed: int) -> list[float]:
    """1024 values that float32 holds, as Stage 1 wrote them."""
    return np.random.default_rng(seed).standard_normal(1024).astype(np.float32).tolist()


def stage1(key: str, seed: int, **more: Any) -> bytes:
    record = {
        "image_path": f"data/approved/{key}.jpg",
        "dinov3_embedding": numbers(seed),
        "caption": f"is {key}",
    }
    return json.dumps(record | {"t5_attention_mask": MASK} | more).encode()


def write(work: Path, *lines: bytes) -> bytes:
    content = b"".join(line + b"\n" for line in lines)
    (work / RECORDS).write_bytes(content)
    return content


def records(work: Path) -> dict[str, dict[str, Any]]:
    lines = (work / RECORDS).read_text().splitlines()
    return {Path(record["image_path"]).stem: record for record in map(json.loads, lines)}


def tree(work: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in sorted(work.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def times(work: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file() and path.name != "lock"
    }


def embedding(work: Path, key: str) -> np.ndarray:
    return np.load(work / "data/derived/dinov3" / f"{key}.npy", allow_pickle=False)
