"""latentkit: picture collections to latents and embeddings, with a written contract on every output."""

__version__ = "0.1.0"
