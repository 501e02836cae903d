"""Shared parts of the benchmarks: the Kaggle model, timed steps, and printed rows."""
