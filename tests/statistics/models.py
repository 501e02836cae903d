"""Predictions of two models, DeLong's method by brute force, and counts of intervals that cover the truth."""

import numpy as np
from scipy import stats
from scipy.special import expit

from dlrm_adahessian.metrics.means import mean_with_error
from dlrm_adahessian.statistics.intervals import PairedDifference


def brute_force_delong(labels, *models):
    """Return the AUCs and their covariance by the m x n kernel of DeLong et al. (1988)."""
    kernels = []
    for scores in models:
        gap = scores[labels == 1][:, None] - scores[labels == 0][None, :]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    of_clicks = np.stack([kernel.mean(axis=1) for kernel in kernels])
    of_others = np.stack([kernel.mean(axis=0) for kernel in kernels])
    covariance = np.cov(of_clicks) / of_clicks.shape[1] + np.cov(of_others) / of_others.shape[1]
    return np.array([kernel.mean() for kernel in kernels]), np.atleast_2d(covariance)


def two_models(rows=400, levels=None, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, rows)
    labels = (rng.random(rows) < expit(logits)).astype(np.int8)
    a, b = expit(logits + rng.normal(0, 0.5, rows)), expit(logits + rng.normal(0, 1.0, rows))
    if levels:
        a, b = np.round(a * levels) / levels, np.round(b * levels) / levels
    return labels, a, b


def covered(trials, draw_interval, truth):
    low, high = stats.binom.interval(1 - 1e-4, trials, 0.95)
    hits = 0
    for seed in range(trials):
        interval = draw_interval(np.random.default_rng(seed))
        hits += interval[0] <= truth <= interval[1]
    return low <= hits <= high


def paired_mean(a, b):
    """Return mean(a - b) over paired samples, as comparisons compute it from values per sample."""
    return PairedDifference.normal(*mean_with_error(np.subtract(a, b, dtype=np.float64)))
