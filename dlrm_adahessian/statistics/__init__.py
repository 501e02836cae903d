"""Confidence intervals and tests of differences, over samples, seeds, or both."""
