"""Benchmarks. They report ratios of two measurements within one run, and medians."""
