"""Measurements: ratios of two things in one run, medians."""
