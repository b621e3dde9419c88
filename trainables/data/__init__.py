"""Datasets: images by domain, seeded splits into settings, and the settings file. One dataset, one file."""
