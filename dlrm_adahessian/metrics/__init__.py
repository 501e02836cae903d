"""Metrics and curves of click predictions."""
