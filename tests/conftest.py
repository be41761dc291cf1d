"""Tiny checkpoints, saved as the libraries save them: what `Pretrained` reads is what a user would have."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from checkpoints import save_perturbed, tiny_autoencoder

SENTENCES = [
    "a photo of a cat on a chair",
    "two dogs run on the beach at dawn",
    "an old lighthouse under a starry sky",
    "the quick brown fox jumps over the lazy dog",
]


def pytest_configure() -> None:
    """Ctrl-C is heard by the tests' processes also where the shell runs the tests in the background.

    And no test waits for the hub, which none of them needs.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the tests' processes: threads decide the last bit
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Looking for garbage leaves alone what the tests' imports made, also in the processes that they fork."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def dinov3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv3 with 2 layers of width 32 and 4 registers, none of whose parameters is at a neutral value."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_register_tokens=4,
    )
    return save_perturbed(DINOv3ViTModel(config), tmp_path_factory.mktemp("dinov3"))


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's autoencoder, 8 channels wide, at the top of its folder."""
    return save_perturbed(tiny_autoencoder(4, latent_channels=4), tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flux's autoencoder, 8 channels wide, in the subfolder ``vae``."""
    folder = tmp_path_factory.mktemp("flux")
    vae = tiny_autoencoder(
        4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    save_perturbed(vae, folder / "vae")
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole T5 (decoder included) of width 32, with a Unigram tokenizer trained on four sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(SENTENCES * 10, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        vocab_size=64,
        decoder_start_token_id=0,
    )
    return save_perturbed(T5ForConditionalGeneration(config), folder)
