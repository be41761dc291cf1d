"""Complete pictures in tars for WebDataset, with a manifest."""
