"""Random labels and predictions for the tests in this folder."""

import numpy as np
from hypothesis import strategies as st
from scipy.special import expit

GRID = 1024  # probabilities k / GRID are exact in float32, and so is 1 minus them

label_and_tick = st.tuples(st.integers(0, 1), st.integers(1, GRID - 1))
clicks_on_grid = st.lists(label_and_tick, min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def split(rows):
    labels, ticks = zip(*rows, strict=True)
    return np.array(labels, np.int8), np.array(ticks) / GRID


def predictions(kind, rows=20_000):
    rng = np.random.default_rng(7)
    logits = rng.normal(-1.3, 1.2, rows)
    probability = {
        "random": expit(logits),
        "tied": np.round(expit(logits), 2).clip(0.01, 0.99),
        "constant": np.full(rows, 0.25),
        # scikit-learn clips float64 at 2.2e-16, so the two can only agree up to there
        "extreme": expit(20 * logits).clip(1e-15, 1 - 1e-15),
        "at the threshold": np.where(rng.random(rows) < 0.5, 0.5, np.nextafter(0.5, 0)),
    }[kind]
    return (rng.random(rows) < expit(logits)).astype(np.int8), probability


def weights_of(rows, kind="whole"):
    """Return weights (N,), float64: integers from 0 to 4, or any values."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 5, rows).astype(np.float64) if kind == "whole" else rng.exponential(2.0, rows)
