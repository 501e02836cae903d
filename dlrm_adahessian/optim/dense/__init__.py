"""Optimizers of the dense part, a rule per file."""
