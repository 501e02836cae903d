"""Calibrate probabilities: maps of logits, how to fit and evaluate them, and their storage in a run."""
