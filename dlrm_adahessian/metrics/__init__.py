"""Metrics of click predictions."""
