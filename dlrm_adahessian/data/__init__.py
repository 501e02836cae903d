"""Criteo rows, real and synthetic: text to planar memory maps to batches."""
