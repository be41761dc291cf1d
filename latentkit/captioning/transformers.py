"""Captions from an image-text-to-text model of transformers (Gemma 3, Qwen-VL ...) on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentkit.captioning.captioner import Answer, Captioner, Describe, judge
from latentkit.errors import UsageError, one_line

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

DTYPES = ("auto", "float32", "float16", "bfloat16")
PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors")
"""The hub files that a model, its tokenizer and its image processor are made of."""

_GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""Greedy decoding, whatever the model's own generation_config.json says."""
_PADDED = {"padding": True, "padding_side": "left", "return_tensors": "pt"}


@dataclass(frozen=True, kw_only=True)
class TransformersCaptioner(Captioner):
    """A model that is loaded whole on one device, asked about a batch at a time, decoded greedily.

    The same batch gives the same captions. A batch that does not fit in memory is halved.

    Attributes:
        model: hub id or local folder.
        revision: the hub revision; None takes the newest.
        local_files_only: use what the hub's cache holds, and never the network.
        dtype: of the weights; auto is bfloat16 on a GPU, float32 on a CPU.
        device: ``cpu``, ``cuda``, ``cuda:1`` ...; auto is the GPU when there is one.
        batch_size: pictures of one batch.
    """

    revision: str | None = None
    local_files_only: bool = False
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in DTYPES:
            raise UsageError(f"caption.dtype={self.dtype}: choose one of {', '.join(DTYPES)}")
        self.require_at_least("batch_size", 1)

    @property
    def name(self) -> str:
        """See `Captioner.name`: ``<hub id>``, ``<hub id>@<revision>`` or ``local:<folder>``."""
        if (folder := Path(self.model).expanduser()).is_dir():
            return f"local:{folder.resolve().name}"
        return self.model if self.revision is None else f"{self.model}@{self.revision}"

    @contextmanager
    def open(self) -> Iterator[Describe]:
        """See `Captioner.open`. Downloads the model unless it is there."""
        from latentkit.encoders.weights import locate

        offline = self.local_files_only
        otherwise = "pass caption.model=FOLDER, or caption=openai for a server"
        folder = locate(self.model, self.revision, PATTERNS, offline, where="caption", otherwise=otherwise)
        import torch
        from transformers import AutoModelForImageTextToText

        from latentkit.encoders.loading import from_folder, quiet

        device = self._device()
        precision = torch.bfloat16 if device.type == "cuda" else torch.float32
        dtype: torch.dtype = precision if self.dtype == "auto" else getattr(torch, self.dtype)
        with quiet("transformers"):
            processor = _processor(folder)
            network = from_folder(AutoModelForImageTextToText, folder, dtype).eval().to(device)
            try:
                yield lambda pictures: self._describe(network, processor, pictures)
            finally:
                network.to("meta")
                if device.type == "cuda":
                    torch.cuda.empty_cache()

    def _device(self) -> torch.device:
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(1, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"caption.device={self.device}: {one_line(error)[:200]}") from None

    def _describe(
        self, network: Any, processor: Any, pictures: Iterable[tuple[int, Image]]
    ) -> Iterator[Answer]:
        import torch

        left: list[tuple[int, Image]] = []
        more, size = iter(pictures), self.batch_size
        while left := left or list(itertools.islice(more, size)):
            part = left[:size]
            try:
                yield from self._generate(network, processor, part)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                yield Answer(part[0][0], reason="out of memory")
            left = left[len(part) :]

    def _generate(self, network: Any, processor: Any, batch: Sequence[tuple[int, Image]]) -> list[Answer]:
        import torch

        content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        chat = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        images, texts = [[image] for _, image in batch], [chat] * len(batch)
        # The chat template has the special tokens.
        inputs = processor(images=images, text=texts, add_special_tokens=False, **_PADDED)
        inputs = inputs.to(network.device, network.dtype)
        with torch.inference_mode():
            tokens = network.generate(**inputs, **_GREEDY, max_new_tokens=self.max_new_tokens)
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(tokens, skip_special_tokens=True)
        ends = network.generation_config.eos_token_id
        whole = torch.isin(tokens, torch.tensor(ends, device=tokens.device)).any(dim=1).tolist()
        answers = zip(batch, texts, whole, strict=True)
        return [judge(number, text, whole=ended) for (number, _), text, ended in answers]


def _processor(folder: Path) -> Any:
    """The model's processor, its pictures prepared by Pillow and numpy: torchvision is not needed."""
    from transformers import AutoProcessor

    from latentkit.encoders.loading import one_line_errors

    with one_line_errors(f"{folder}: the processor cannot be loaded"):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        if processor.chat_template is None:
            raise ValueError("it has no chat template; choose a model that was tuned to follow instructions")
    return processor
