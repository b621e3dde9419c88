"""Cluster files: what is wrong with one, and what it would start, without asking any cloud."""
