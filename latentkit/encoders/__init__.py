"""Pictures and captions to latents and embeddings: one family a file, and the contract on what it stores."""

from latentkit.encoders.autoencoder import Autoencoder, LatentDecoder
from latentkit.encoders.contract import Contract, ContractError
from latentkit.encoders.dinov3 import DINOv3
from latentkit.encoders.encoder import Encoder, PretrainedEncoder
from latentkit.encoders.t5 import T5
from latentkit.encoders.weights import Checkpoint, Layout, Pretrained, Random

__all__ = [
    "T5",
    "Autoencoder",
    "Checkpoint",
    "Contract",
    "ContractError",
    "DINOv3",
    "Encoder",
    "LatentDecoder",
    "Layout",
    "Pretrained",
    "PretrainedEncoder",
    "Random",
]
