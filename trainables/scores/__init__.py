"""Anomaly scores s(x) of embeddings, higher = more anomalous: one file per score."""
