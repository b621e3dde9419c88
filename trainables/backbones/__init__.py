"""Backbones: trainable networks from images to L2-normalised embeddings; one file per library."""
