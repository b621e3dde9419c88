"""Detectors across domains: one file per method."""
