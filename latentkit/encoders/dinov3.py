"""DINOv3 embeddings (Siméoni et al., 2025, https://arxiv.org/abs/2508.10104)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from latentkit.encoders.encoder import PretrainedEncoder
from latentkit.encoders.weights import Layout
from latentkit.errors import UsageError
from latentkit.pixels.geometry import AntialiasedResize, Geometry

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PATCH = 16


@dataclass(frozen=True, kw_only=True)
class DINOv3(PretrainedEncoder):
    """A picture's CLS embedding, and its patch tokens if asked for.

    Input: RGB in [0, 1], antialiased bilinear resize to ``input_size`` squared without rounding, ImageNet
    mean and std: the order of the model's own image processor.
    Output: ``embeddings`` [D] float32, the final layer norm's CLS token (``pooler_output``), not normalised
    to unit length; with ``patches`` also ``patches`` [(input_size / 16)^2, D] float32 in row-major order,
    register tokens left out. D is 1024 for ViT-L/16.

    Attributes:
        input_size: side in pixels; a multiple of 16.
        patches: whether patch tokens are stored too.
    """

    network_class: ClassVar[str] = "DINOv3ViTModel"
    layout: ClassVar[Layout] = Layout(weights="model", marker="model_type", architecture="dinov3_vit")
    gpu_precision: ClassVar[str] = "16-mixed"
    """float16 autocast: 0.10% from float32 on an H200, where bfloat16 is 0.75% off."""

    name: str = "dinov3"
    model: str = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    input_size: int = 224
    patches: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_size < PATCH or self.input_size % PATCH:
            raise UsageError(
                f"{self.where}.input_size={self.input_size}: must be a positive multiple of {PATCH}"
            )

    @property
    def geometry(self) -> Geometry:
        return AntialiasedResize(size=self.input_size)

    @property
    def stored(self) -> str:
        return "cls+patches" if self.patches else "cls"

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        width = self.config["hidden_size"]
        outputs = {"embeddings": {"shape": [width], "dtype": "float32"}}
        if self.patches:
            outputs["patches"] = {"shape": [(self.input_size // PATCH) ** 2, width], "dtype": "float32"}
        return outputs

    def describe_input(self) -> dict[str, Any]:
        return super().describe_input() | {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}

    def random_config(self, size: str) -> dict[str, Any]:
        """ViT-L/16 as published, with its 4 registers; or one narrow-MLP layer of its width."""
        layers, width = (24, 4096) if size == "real" else (1, 256)
        body = {"num_hidden_layers": layers, "intermediate_size": width, "num_attention_heads": 16}
        return {"hidden_size": 1024, "num_register_tokens": 4, "patch_size": PATCH, **body}

    def build(self) -> torch.nn.Module:
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        from latentkit.encoders.loading import load_model
        from latentkit.encoders.networks import DINOv3Network

        vit = load_model(self, DINOv3ViTModel, lambda config: DINOv3ViTModel(DINOv3ViTConfig(**config)))
        return DINOv3Network(vit, mean=IMAGENET_MEAN, std=IMAGENET_STD, patches=self.patches)
