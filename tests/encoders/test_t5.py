"""T5: hidden states and masks as transformers gives them; captions that were cut are said to be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from recipes import AS_STORED, UPRIGHT
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5EncoderModel

from latentkit.encoders import T5, Random
from latentkit.errors import LatentkitError, UsageError

CAPTIONS = ["a photo of a cat", "two dogs run on the beach at dawn under a starry sky", ""]


def test_hidden_states_are_the_plain_model_s(t5_folder: Path) -> None:
    encoder = T5(model=str(t5_folder), max_length=60)
    tensors, _ = encoder.batch(["a", "b", "c"], CAPTIONS)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "input_ids": ((3, 60), torch.int64),
        "attention_mask": ((3, 60), torch.int64),
    }
    tokens = AutoTokenizer.from_pretrained(t5_folder)(
        CAPTIONS, padding="max_length", truncation=True, max_length=60, return_tensors="pt"
    )
    assert torch.equal(tensors["input_ids"], tokens["input_ids"])
    assert torch.equal(tensors["attention_mask"], tokens["attention_mask"])
    network, plain = encoder.load(), T5EncoderModel.from_pretrained(t5_folder).eval()
    with torch.inference_mode():
        ours = network(**tensors)["hidden"]
        unrounded = network.encoder(**tensors).last_hidden_state
        theirs = plain(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])[0]
    assert (unrounded - theirs).norm() / theirs.norm() < 1e-5
    assert ours.shape == (3, 60, 32)
    assert ours.dtype == torch.float16
    torch.testing.assert_close(ours, theirs.half(), rtol=1e-3, atol=1e-6)


def test_the_encoder_does_not_see_padding(t5_folder: Path) -> None:
    """A caption's states are the same whatever the length that it is padded to."""

    def states(max_length: int) -> torch.Tensor:
        encoder = T5(model=str(t5_folder), max_length=max_length)
        tensors, facts = encoder.batch(["a"], CAPTIONS[:1])
        with torch.inference_mode():
            return encoder.load()(**tensors)["hidden"][0, : facts[0]["attention_mask_length"]]

    torch.testing.assert_close(states(30), states(60), rtol=2e-3, atol=1e-4)


def test_facts_count_the_tokens_seen_and_tell_what_was_cut(t5_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    exact = len(tokenizer(CAPTIONS[1])["input_ids"])
    for max_length, cut in ((exact - 1, True), (exact, False), (exact + 1, False)):
        tensors, facts = T5(model=str(t5_folder), max_length=max_length).batch(CAPTIONS, CAPTIONS)
        seen = min(exact, max_length)
        assert facts[1] == {"attention_mask_length": seen, "max_length": max_length, "cut": cut}
        assert facts[2] == {"attention_mask_length": 1, "max_length": max_length, "cut": False}
        ids, mask = tensors["input_ids"][1], tensors["attention_mask"][1]
        assert mask.tolist() == [1] * seen + [0] * (max_length - seen)
        assert ids[seen - 1] == tokenizer.eos_token_id


def test_decoder_weights_are_ignored_but_a_missing_encoder_weight_is_not(
    t5_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(t5_folder, folder)
    state = load_file(folder / "model.safetensors")
    assert any(name.startswith("decoder.") for name in state)
    missing = "encoder.block.1.layer.0.SelfAttention.k.weight"
    del state[missing]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(LatentkitError, match=f"not a whole T5EncoderModel: {missing} is missing"):
        T5(model=str(folder)).load()


def test_a_changed_tokenizer_is_another_contract(t5_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / t5_folder.name
    shutil.copytree(t5_folder, folder)
    before, same = (
        T5(model=str(t5_folder)).contract(UPRIGHT),
        T5(model=str(folder)).contract(AS_STORED),
    )
    assert before.sha256 == same.sha256
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    after = T5(model=str(folder)).contract(UPRIGHT)
    assert [name for name, _, _ in before.difference(after)] == ["weights.tokenizer.json"]
    before.require(input__max_length=77, input__attention_mask=True, stored="hidden")
    assert before.outputs == {"hidden": {"shape": [77, 32], "dtype": "float16"}}


def test_a_damaged_tokenizer_is_one_line(t5_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(t5_folder, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(LatentkitError, match="the tokenizer cannot be loaded") as caught:
        T5(model=str(folder)).batch(["a"], ["a"])
    assert "\n" not in str(caught.value)


def test_random_weights_read_bytes() -> None:
    encoder = T5(weights=Random())
    tensors, facts = encoder.batch(["a", "b"], ["chat à l'école", "x" * 77])
    # ByT5: a byte's id is its value + 3; 1 ends the sequence.
    encoded = "chat à l'école".encode()
    assert tensors["input_ids"][0, : len(encoded) + 1].tolist() == [byte + 3 for byte in encoded] + [1]
    assert [fact["cut"] for fact in facts] == [False, True]
    with torch.inference_mode():
        hidden = encoder.load()(**tensors)["hidden"]
    assert hidden.shape == (2, 77, 1024)
    assert hidden.isfinite().all()
    assert not torch.equal(hidden[0, 0], hidden[1, 0])
    contract = encoder.contract(AS_STORED)
    contract.require(input__tokenizer="bytes", pretrained=False, model="random T5EncoderModel")


@pytest.mark.slow
def test_the_real_architecture_is_t5_large_s_encoder() -> None:
    encoder = T5(weights=Random(size="real"))
    network = encoder.load()
    attention, feed_forward, norms = 4 * 1024 * 1024, 2 * 1024 * 4096, 2 * 1024
    expected = 32128 * 1024 + 24 * (attention + feed_forward + norms) + 32 * 16 + 1024
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == expected == pytest.approx(334.9e6, rel=1e-3)
    tensors, _ = encoder.batch(["a"], ["a photo of a cat"])
    with torch.inference_mode():
        hidden = network(**tensors)["hidden"]
    assert hidden.shape == (1, 77, 1024)
    assert hidden.dtype == torch.float16
    assert hidden.isfinite().all()
    assert encoder.contract(AS_STORED).weights == "random:0:real"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_length": 513}, "max_length=513: must be 1 to 512"),
        ({"max_length": 0}, "max_length=0: must be 1 to 512"),
        ({"precision": "16-mixed"}, "choose one of 32-true, tf32, bf16-mixed"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        T5(**options)
