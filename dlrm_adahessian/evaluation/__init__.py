"""Evaluate models offline: score samples or read saved predictions, and compute metrics overall and by slice."""
