"""Readers for training, over files and over tars; `latentkit.stores` offers them. They need torch."""
