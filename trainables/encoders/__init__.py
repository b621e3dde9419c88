"""Encoders: frozen visual networks that turn images into L2-normalised features; one file each."""
