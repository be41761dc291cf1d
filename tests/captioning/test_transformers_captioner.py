"""A model on this machine: its captions are what plain transformers generates, picture by picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from chat_server import plain
from transformers import AutoModelForImageTextToText, AutoProcessor

from latentkit.captioning import TransformersCaptioner
from latentkit.errors import LatentkitError, UsageError

PROMPT = "a photo of the"
LONGEST = 10


def plainly(folder: Path, number: int) -> tuple[str, bool]:
    """What the model says of one picture alone, through the library's own chat call; whether it ended."""
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    content = [{"type": "image", "image": plain(number)}, {"type": "text", "text": PROMPT}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = network.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)[
        0, inputs["input_ids"].shape[1] :
    ]
    return processor.decode(tokens, skip_special_tokens=True), bool(set(tokens.tolist()) & {1, 9, 12, 15, 18})


@pytest.fixture(scope="module")
def expected(gemma_folder: Path) -> dict[int, tuple[str, bool]]:
    return {number: plainly(gemma_folder, number) for number in range(0, 20, 2)}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_captions_are_plain_transformers(
    gemma_folder: Path, expected: dict[int, tuple[str, bool]], batch_size: int
) -> None:
    captioner = TransformersCaptioner(
        model=str(gemma_folder), prompt=PROMPT, max_new_tokens=LONGEST, batch_size=batch_size, device="cpu"
    )
    assert captioner.name == f"local:{gemma_folder.name}"
    with captioner.open() as describe:
        answers = list(describe((number, plain(number)) for number in expected))
    assert [answer.number for answer in answers] == list(expected)
    kinds = set()
    for answer, (text, ended) in zip(answers, expected.values(), strict=True):
        if not text.strip():
            assert (answer.caption, answer.reason) == ("", "the model's answer is empty")
            kinds.add("empty")
        elif not ended:
            assert answer.caption == ""
            assert "cut off" in answer.reason
            kinds.add("cut")
        else:
            assert (answer.caption, answer.reason) == (text, "")
            kinds.add(text)
    assert {"empty", "cut"} < kinds
    assert len(kinds) >= 5  # pictures get captions of their own


def changed(folder: Path, into: Path, damage: str) -> Path:
    shutil.copytree(folder, into)
    if damage == "weights":
        (into / "model.safetensors").write_bytes((into / "model.safetensors").read_bytes()[:5000])
    elif damage == "no weights":
        (into / "model.safetensors").unlink()
    elif damage == "no template":
        (into / "chat_template.jinja").unlink()
    elif damage == "tokenizer":
        (into / "tokenizer.json").write_text("{")
    elif damage == "architecture":
        (into / "config.json").write_text('{"model_type": "t5"}')
    return into


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("weights", "cannot be loaded"),
        ("no weights", "cannot be loaded"),
        ("no template", "no chat template"),
        ("tokenizer", "the processor cannot be loaded"),
        ("architecture", "cannot be loaded"),
    ],
)
def test_a_damaged_model_is_one_line(gemma_folder: Path, tmp_path: Path, damage: str, text: str) -> None:
    folder = changed(gemma_folder, tmp_path / "model", damage)
    with (
        pytest.raises(LatentkitError, match=text) as caught,
        TransformersCaptioner(model=str(folder), prompt=PROMPT, device="cpu").open(),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_what_is_not_there_or_not_an_option_is_one_line(tmp_path: Path) -> None:
    missing = TransformersCaptioner(model=str(tmp_path / "none"), prompt=PROMPT)
    with pytest.raises(LatentkitError, match=r"caption\.model=.*none: no such folder"), missing.open():
        pass
    with pytest.raises(UsageError, match=r"caption\.dtype=int8: choose one of auto, float32"):
        TransformersCaptioner(model="m", prompt=PROMPT, dtype="int8")
    with pytest.raises(UsageError, match=r"caption\.batch_size=0"):
        TransformersCaptioner(model="m", prompt=PROMPT, batch_size=0)
    with pytest.raises(UsageError, match=r"caption\.prompt is empty"):
        TransformersCaptioner(model="m", prompt=" ")
