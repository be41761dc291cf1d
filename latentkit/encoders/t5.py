"""T5's encoder as a caption encoder (Raffel et al., 2020, https://arxiv.org/abs/1910.10683)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from latentkit.encoders.encoder import PretrainedEncoder
from latentkit.encoders.weights import Layout, Random
from latentkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

LONGEST = 512
"""Tokens; what T5 was trained on."""


@dataclass(frozen=True, kw_only=True)
class T5(PretrainedEncoder):
    """A caption's last hidden states.

    Input: token ids padded on the right to ``max_length``, cut there if need be (the end-of-sequence token is
    kept), and the 0/1 mask, which the encoder sees.
    Output: ``hidden`` [max_length, D] float16, after the final layer norm; D is 1024 for T5-large. Rows of
    padding are stored as they come out.

    With random weights the tokens are the caption's UTF-8 bytes, for want of a tokenizer.

    Attributes:
        max_length: tokens, 1 to 512.
    """

    network_class: ClassVar[str] = "T5EncoderModel"
    layout: ClassVar[Layout] = Layout(weights="model", marker="model_type", architecture="t5", tokenizer=True)
    geometry: ClassVar[None] = None
    stored: ClassVar[str] = "hidden"
    gpu_precision: ClassVar[str] = "bf16-mixed"
    """bfloat16 autocast: 0.6% from float32 on an H200; float16 overflows."""

    name: str = "t5"
    model: str = "google-t5/t5-large"
    max_length: int = 77

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_length <= LONGEST:
            raise UsageError(f"{self.where}.max_length={self.max_length}: must be 1 to {LONGEST}")
        if self.precision == "16-mixed":
            raise UsageError(
                f"{self.where}.precision=16-mixed: T5 overflows in float16; "
                "choose one of 32-true, tf32, bf16-mixed"
            )

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        return {"hidden": {"shape": [self.max_length, self.config["d_model"]], "dtype": "float16"}}

    def describe_input(self) -> dict[str, Any]:
        tokenizer = "bytes" if isinstance(self.weights, Random) else "checkpoint"
        fixed = {"padding": "max_length", "truncation": True, "attention_mask": True}
        return {"max_length": self.max_length, **fixed, "tokenizer": tokenizer}

    def random_config(self, size: str) -> dict[str, Any]:
        """T5-large as published; or one layer of its width that knows only bytes."""
        real = {"d_ff": 4096, "num_heads": 16, "num_layers": 24, "vocab_size": 32128}
        small = {"d_ff": 256, "num_heads": 4, "num_layers": 1, "vocab_size": 384}
        return {"d_model": 1024, "d_kv": 64, **(real if size == "real" else small)}

    def build(self) -> torch.nn.Module:
        from transformers import T5Config, T5EncoderModel

        from latentkit.encoders.loading import load_model
        from latentkit.encoders.networks import T5Network

        return T5Network(load_model(self, T5EncoderModel, lambda config: T5EncoderModel(T5Config(**config))))

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's own tokenizer, or transformers' byte tokenizer, which needs no files."""
        from transformers import AutoTokenizer, ByT5Tokenizer

        from latentkit.encoders.loading import one_line_errors, quiet

        if isinstance(self.weights, Random):
            return ByT5Tokenizer()
        folder = self.checkpoint.folder
        with quiet("transformers"), one_line_errors(f"{folder}: the tokenizer cannot be loaded"):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def batch(
        self, keys: Sequence[str], inputs: np.ndarray | torch.Tensor | Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """Captions to the network's input; see `Encoder.batch`.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 [B, max_length]; and for each caption its
            ``attention_mask_length`` (tokens that the encoder sees; the mask is so many ones, then zeros),
            ``max_length``, and ``cut`` (whether it has more tokens than fit).
        """
        captions = [_whole(str(caption)) for caption in inputs]
        encoded = self.tokenizer(
            captions,
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        facts = []
        for caption, length in zip(captions, encoded["attention_mask"].sum(dim=1).tolist(), strict=True):
            cut = length == self.max_length and len(self.tokenizer(caption, verbose=False).input_ids) > length
            facts.append({"attention_mask_length": length, "max_length": self.max_length, "cut": cut})
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}, facts


def _whole(caption: str) -> str:
    """Half surrogate pairs, which JSON may hold and no tokenizer takes, become U+FFFD."""
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
