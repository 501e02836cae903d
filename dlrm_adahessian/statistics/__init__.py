"""Intervals and tests of differences: over rows, over seeds, and over both."""
