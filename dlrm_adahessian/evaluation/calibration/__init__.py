"""Calibrated probabilities: maps of logits, how they are fitted and measured, and how a run keeps one."""
