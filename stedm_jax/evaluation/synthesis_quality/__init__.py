"""Metrics of a set of synthetic images: one file a metric, listed in measure.py."""
