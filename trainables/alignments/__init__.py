"""Losses that pull the trusted target embeddings onto the source: one file per alignment."""
