"""Where the pictures of an evaluation come from: latents, tensor files, folders, datasets, references."""
